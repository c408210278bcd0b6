"""What a suite that tunes will read, as far as it is known before the first trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.space import Space
from tta_bench.evaluation.estimate import Estimate, SpeedOf, estimate
from tta_bench.evaluation.plan import plan
from tta_bench.tuning.parts import reported_part, trials_base, trials_name, tuning_part

if TYPE_CHECKING:
    from tta_bench.evaluation.suite import Suite

TRIALS_NOTE = (
    "trials of the grid come first; the search may go on beyond its ends, and the best of each "
    "method then runs on the reported documents"
)


def estimate_tuned(
    suite: Suite,
    *,
    name: str | None,
    base: str | None,
    results: Path,
    plugins: Iterable[Path] = (),
    trust_remote_code: bool = False,
    speed_of: SpeedOf | None = None,
) -> Iterator[Estimate]:
    """The trials of the grid, then the methods without sets on the reported documents.

    The arguments are those of `run_suite` and `estimate`.

    Raises:
        BenchError: a job cannot be run.
    """
    sets = [spec for spec in suite.methods if Space.of(spec).sets]
    fixed = [spec for spec in suite.methods if spec not in sets]
    files = tuple(plugins)
    tuning = replace(tuning_part(suite), methods=sets)
    if sets:
        jobs = plan(tuning, plugins=files, trust_remote_code=trust_remote_code)
        own = trials_base(tuning, base)
        where = {"name": trials_name(name), "base": own}
        yield from estimate(jobs, **where, results=results, speed_of=speed_of)
    if fixed:
        rest = replace(reported_part(suite), methods=fixed)
        jobs = plan(rest, plugins=files, trust_remote_code=trust_remote_code)
        yield from estimate(jobs, name=name, base=base, results=results, speed_of=speed_of)

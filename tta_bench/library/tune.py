"""`tta_bench.tune`: the best values of methods' parameters, found on tuning documents."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.contract.registry import add_plugin
from tta_bench.library.given import named_documents, named_model, tokenizer_spec
from tta_bench.library.options import Options, suite_of
from tta_bench.library.session import session
from tta_bench.library.shown import Shown
from tta_bench.store import Rerun
from tta_bench.store.tuning import Tuning
from tta_bench.tables.tuned import tuning_table
from tta_bench.tuning.execute import TuningRun
from tta_bench.tuning.trials import TRIALS

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Unpack

    from tta_bench.library.given import Documents, Model
    from tta_bench.tables import Table

_COMMAND = ("tta_bench.tune",)


class Tuned(Shown):
    """What a tuning chose; it shows itself as the table of its trials.

        tuned = tta_bench.tune(model, tuning_texts, "dynamic-eval:lr=1e-5|3e-5|1e-4")
        results = tta_bench.evaluate(model, texts, ["none", *tuned])

    Iterated it gives a `Tuning` for each method, which `evaluate` takes as a method: it refuses
    texts that were tuned on, and the manifest says how the values were chosen.

    Attributes:
        choices: the chosen spec of each method, with all trials.
    """

    def __init__(
        self, choices: Sequence[Tuning], scratch: tempfile.TemporaryDirectory[str] | None = None
    ):
        self.choices = list(choices)
        self._scratch = scratch

    def __iter__(self) -> Iterator[Tuning]:
        return iter(self.choices)

    @property
    def methods(self) -> list[str]:
        """The chosen specs."""
        return [one.chosen for one in self.choices]

    def frame(self) -> pd.DataFrame:
        """One row for each trial: space, trial, nll_per_token, flops, documents, chosen, reason."""
        import pandas as pd

        rows = [
            {
                "space": one.space,
                "trial": trial.spec,
                "nll_per_token": trial.nll_per_token,
                "flops": trial.flops,
                "documents": trial.documents,
                "chosen": trial is one.best,
                "reason": trial.reason,
            }
            for one in self.choices
            for trial in one.trials
        ]
        return pd.DataFrame(rows)

    def tables(self) -> list[Table]:
        return [tuning_table(one) for one in self.choices]

    def __repr__(self) -> str:
        return str(self)


def tune(
    model: Model,
    documents: Documents,
    methods: str | Sequence[str],
    *,
    tokenizer: Any = None,
    results: str | os.PathLike[str] | None = None,
    name: str | None = None,
    rerun: Rerun = "missing",
    trials: int = TRIALS,
    plugins: Sequence[str | os.PathLike[str]] = (),
    trust_remote_code: bool = False,
    quiet: bool = False,
    debug: bool = False,
    **protocol: Unpack[Options],
) -> Tuned:
    """Finds the best values of methods' parameters on documents that are not reported.

        tta_bench.tune("builtin:tiny", "builtin:stdlib", "regression:step=10|20|40", limit=4)

    Args:
        model: as `evaluate` takes it.
        documents: the tuning documents, as `evaluate` takes them.
        methods: one or several specs, of which each has a set of values: `lr=1e-5|3e-5`.
        tokenizer: as for `evaluate`.
        results: the folder that the group of trials is stored in; None: one that goes when what is
            returned does.
        name: the trials land in the group NAME-tuning.
        rerun: documents of stored trials to read again.
        trials: points that Optuna tries where more than three parameters are sets.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.
        quiet: show no progress, only notes.
        debug: let exceptions of methods through.
        protocol: what `Options` lists: limits, protocol, dtype, device, lanes, audit, seed.

    Raises:
        BenchError: nothing can run, no method has a set, or no trial can be chosen.
    """
    for file in plugins:
        add_plugin(Path(file))
    with ExitStack() as held:
        column = protocol.get("text_column")
        dataset = held.enter_context(named_documents(documents, column))
        other, tokenizer = tokenizer_spec(model, tokenizer)
        of_model = held.enter_context(named_model(model, tokenizer))
        spaces = [methods] if isinstance(methods, str) else list(methods)
        suite = suite_of(protocol, of_model, dataset, spaces)
        suite.tokenizer = other
        scratch = tempfile.TemporaryDirectory(prefix="tta-bench-") if results is None else None
        folder = Path(results or "." if scratch is None else scratch.name)
        run = TuningRun(
            suite,
            held.enter_context(session(quiet)),
            name=name,
            base=None,
            results=folder,
            rerun=rerun,
            plugins=[Path(file) for file in plugins],
            trust_remote_code=trust_remote_code,
            debug=debug,
            trials=trials,
            command=_COMMAND,
        )
        return Tuned(list(run.tune()), scratch)

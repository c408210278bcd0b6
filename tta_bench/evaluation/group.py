"""The name of the group that the runs of a plan land in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.store import create_group, short_name
from tta_bench.store.key import setting

if TYPE_CHECKING:
    from tta_bench.evaluation.job import Job


GroupOf = Callable[[Mapping[str, Any]], Path]
"""The folder of the group that a run belongs to, by its manifest."""


def group_maker(
    jobs: Sequence[Job], *, name: str | None, base: str | None, results: Path
) -> GroupOf:
    """The group of a plan, which is created when its first run begins.

    Args:
        jobs: all jobs of the plan.
        name: name of the group; without one it is named by `base` and what the runs share.
        base: by default the names of the first model and dataset.
        results: the folder that the group lies in.
    """
    made: list[Path] = []

    def group_of(manifest: Mapping[str, Any]) -> Path:
        if not made:
            portion = jobs[0].setting.portion
            suffix = "" if portion is None else portion.suffix
            identity = group_identity(jobs, manifest, base)
            made.append(create_group(name, **identity, results=results, suffix=suffix))
        return made[0]

    return group_of


def group_identity(
    jobs: Sequence[Job], manifest: Mapping[str, Any], base: str | None = None
) -> dict[str, str]:
    """`base` and `digest` as `create_group` takes them: the same jobs have the same group.

    Args:
        jobs: all jobs of the plan.
        manifest: the manifest of the first of them.
        base: what the name starts with; by default the names of the first model and dataset.
    """
    models = list(dict.fromkeys(job.setting.model for job in jobs))
    datasets = list(dict.fromkeys(job.setting.dataset for job in jobs))
    shared = [setting(manifest), models[1:], datasets[1:]]
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
    return {"base": base or f"{short_name(models[0])}-{short_name(datasets[0])}", "digest": digest}

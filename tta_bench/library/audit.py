"""`tta_bench.audit`: the rules held against stored runs, on their own model and documents."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.auditing.audit import Mode
from tta_bench.contract.registry import add_plugin
from tta_bench.evaluation.reaudit import audit_stored
from tta_bench.evaluation.rerun import Rerunner
from tta_bench.library.given import chosen_methods, named_documents, named_model
from tta_bench.library.results import Results
from tta_bench.library.session import session
from tta_bench.library.shown import Shown
from tta_bench.store import find_runs, load_group, load_run
from tta_bench.tables.findings import findings_table
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.evaluation.verdict import Verdict
    from tta_bench.library.given import Documents, Methods, Model
    from tta_bench.store import Run

_WORDS = {True: "valid", False: "NOT VALID", None: "validity unknown"}


class Audited(Shown):
    """The verdicts on runs; it shows itself as a table of findings for each.

        audited = tta_bench.audit("results/mine")
        assert audited.valid, audited

    Attributes:
        verdicts: each run and its verdict, which is stored with it.
    """

    def __init__(self, verdicts: Sequence[tuple[Run, Verdict]]):
        self.verdicts = list(verdicts)

    @property
    def valid(self) -> bool | None:
        """True if all runs are valid, False if one is not, None if one could not be judged."""
        found = [verdict.valid for _, verdict in self.verdicts]
        return False if False in found else None if None in found else True

    def tables(self) -> list[Table]:
        shown = []
        for run, verdict in self.verdicts:
            findings = [vars(one) for one in verdict.audit.findings] if verdict.audit else []
            table = findings_table(run.spec, "check", findings)
            reason = f": {verdict.reason}" if verdict.reason else ""
            note = f"{_WORDS[verdict.valid]}{reason}"
            shown.append(Table(table.title, table.columns, table.rows, [note]))
        return shown

    def __repr__(self) -> str:
        return str(self)


def audit(
    runs: Results | str | os.PathLike[str],
    *,
    model: Model | None = None,
    tokenizer: Any = None,
    documents: Documents | None = None,
    methods: Methods = (),
    full: bool = True,
    plugins: Sequence[str | os.PathLike[str]] = (),
    quiet: bool = False,
) -> Audited:
    """Audits runs anew and stores the verdicts with them, as `tta-bench audit` does.

        tta_bench.audit("results/mine/none-1f0c9a2b")
        tta_bench.audit(results, model=(model, tokenizer), documents=texts, methods=MyMethod)

    Args:
        runs: results, or the folder or the name of a run or a group.
        model: the model of the runs, where it was in memory.
        tokenizer: its tokenizer, unless it comes with it.
        documents: the documents of the runs, where they were in memory.
        methods: the classes of the runs' methods, where they were.
        full: read a whole document again, not only as much as a tenth of a run's time allows.
        plugins: Python files that register methods.
        quiet: show no progress, only notes.

    Raises:
        UsageError: there is no such run, it is not finished, or its method is not known here.
        BenchError: its model or documents cannot be had, or it cannot be written.
    """
    for file in plugins:
        add_plugin(Path(file))
    stored = runs.runs if isinstance(runs, Results) else load_group(find_runs(os.fspath(runs)))
    with ExitStack() as held:
        if model is not None:
            held.enter_context(named_model(model, tokenizer))
        if documents is not None:
            column = stored[0].manifest["config"].get("text_column")
            held.enter_context(named_documents(documents, column))
        if methods:
            held.enter_context(chosen_methods(methods))
        scratch = held.enter_context(tempfile.TemporaryDirectory(prefix="tta-bench-"))
        progress = held.enter_context(session(quiet))
        rerunner = Rerunner(Path(scratch), progress)
        mode: Mode = "full" if full else "auto"
        verdicts = [audit_stored(run, rerunner, mode) for run in stored]
    now = [load_run(run.path) for run in stored]
    if isinstance(runs, Results):
        runs.runs = now  # their tables show the new verdicts
    return Audited(list(zip(now, verdicts, strict=True)))

"""`Results`: what an evaluation gave, as tables, frames of pandas and figures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tta_bench.errors import UsageError
from tta_bench.extras import require
from tta_bench.files import complete_folder
from tta_bench.format import plural
from tta_bench.library.shown import Shown, Tables
from tta_bench.report.costs import cost_figures
from tta_bench.report.curves import loss_figure, over_position, position_figure
from tta_bench.report.gains import all_losses, gains_of
from tta_bench.report.palette import slots
from tta_bench.report.png import drawn, png_of
from tta_bench.store.files import explained
from tta_bench.store.frame import frame_of
from tta_bench.store.lock import LOCK
from tta_bench.tables import summary_tables
from tta_bench.tables.settings import BASELINE, baseline_label, baseline_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Canvas

    from tta_bench.report.figure import Figure
    from tta_bench.report.gains import Gains, Losses
    from tta_bench.statistics import Bucket
    from tta_bench.store import Run
    from tta_bench.tables import Table

CURVES = {
    "method": "string",
    "first": "Int64",
    "last": "Int64",
    "tokens": "Int64",
    "nll_per_token": "Float64",
    "nll_ci95_low": "Float64",
    "nll_ci95_high": "Float64",
    "gain_per_token": "Float64",
    "gain_ci95_low": "Float64",
    "gain_ci95_high": "Float64",
}
"""Columns of `Results.curves`, with their pandas types."""
_GAIN = "gain-by-position"
_SCREEN_DPI = 100


class Results(Shown):
    """The runs of an evaluation, one for each method, in the order in which they were asked for.

        results = tta_bench.evaluate("builtin:tiny", "builtin:pydoc", ["none", "neural-cache"])
        results.frame()[["method", "perplexity", "delta_nats_per_token"]]

    Where they were not stored, their files are in a folder that goes when this object does.

    Attributes:
        runs: the stored runs: manifest, rows, losses of single tokens, summary.
        metrics: names of metrics that tables show beside those that are always shown.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        metrics: Sequence[str] = (),
        scratch: TemporaryDirectory[str] | None = None,
    ):
        self.runs = list(runs)
        self.metrics = list(metrics)
        self._scratch = scratch

    @property
    def folder(self) -> Path:
        """The folder of the group, which `tta-bench show` and the other commands take."""
        return self.runs[0].path.parent

    def tables(self, baseline: str = BASELINE) -> list[Table]:
        return summary_tables(self.runs, baseline, self.metrics)

    def table(self, baseline: str = BASELINE) -> Tables:
        """The summary table: text in a terminal, HTML in a notebook.

            results.table()

        Args:
            baseline: name or spec of the method that the others are compared with.
        """
        return Tables(self.tables(baseline))

    def frame(self, baseline: str = BASELINE) -> pd.DataFrame:
        """One row per method; columns are those of `tta-bench compare --format csv`.

            results.frame().sort_values("perplexity")

        Args:
            baseline: name or spec of the method that the others are compared with.
        """
        import pandas as pd

        tables = self.tables(baseline)
        keys = list(dict.fromkeys(column.key for table in tables for column in table.columns))
        rows = {row["key"]: row for table in tables for row in table.rows}
        ordered = [rows[run.manifest["key"]] for run in self.runs]
        return pd.DataFrame([{key: row.get(key) for key in keys} for row in ordered], columns=keys)

    def documents(self) -> pd.DataFrame:
        """One row per method and document; columns are those of `load_results`.

        results.documents().pivot(
            index="document", columns="method_spec", values="nll_nats_per_token"
        )
        """
        return frame_of(self.runs)

    def curves(self, baseline: str = BASELINE) -> pd.DataFrame:
        """The loss by position in the document, and what a method gains there on the baseline.

            results.curves().query("method == 'dynamic-eval'").plot(x="first", y="nll_per_token")

        Every row is of the scored tokens from the `first` to the `last` place, counted from 1, in
        all documents together: nats per token, with 95 % intervals over documents. What is not
        known is missing: intervals of one document, gains of and without a baseline, and all of a
        run that has not done every document.

        Args:
            baseline: name or spec of the method that the others are compared with.
        """
        import pandas as pd

        losses, gains = self._by_token(baseline)
        of_run = {id(item.run): over_position(item) for item in gains}
        records = []
        for item in losses:
            gained = {bucket.low: bucket for bucket in of_run.get(id(item.run), [])}
            for bucket in over_position(item):
                records.append(
                    {
                        "method": item.run.spec,
                        "first": bucket.low,
                        "last": bucket.high - 1,
                        "tokens": bucket.tokens,
                        **_estimate("nll", bucket),
                        **_estimate("gain", gained.get(bucket.low)),
                    }
                )
        return pd.DataFrame.from_records(records, columns=list(CURVES)).astype(CURVES)

    def plot(self, figure: str | None = None, baseline: str = BASELINE) -> Canvas:
        """A figure of the report, drawn by matplotlib, which a notebook shows.

            results.plot()
            results.plot("quality-flops").savefig("quality.pdf")

        Args:
            figure: its name, one of `figures()`; by default the gain by position, or the loss where
                there is nothing to compare.
            baseline: name or spec of the method that the others are compared with.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            UsageError: matplotlib is not installed, or there is no such figure.
        """
        require("matplotlib", extra="report", what="plot")
        known = self._figures(baseline)
        if not known:
            raise UsageError("there is nothing to draw: no run has done its documents.")
        usual = _GAIN if _GAIN in known else next(iter(known))
        if figure is not None and figure not in known:
            raise UsageError(f"there is no figure '{figure}' here; there are: {', '.join(known)}.")
        canvas = drawn(known[figure or usual])
        # A notebook shows figures of pyplot by itself, and this one is none of its windows.
        canvas._repr_png_ = lambda: png_of(canvas, _SCREEN_DPI)  # type: ignore[attr-defined]
        return canvas

    def figures(self, baseline: str = BASELINE) -> list[str]:
        """The names that `plot` takes.

            results.figures()

        Args:
            baseline: name or spec of the method that the others are compared with.
        """
        return list(self._figures(baseline))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Stores the runs in a folder, which `tta-bench show` and the other commands take.

            results.save("results/mine")

        Returns:
            The folder.

        Raises:
            UsageError: it holds one of the runs already.
            BenchError: it cannot be written.
        """
        target = Path(folder)
        for run in self.runs:
            if (target / run.path.name).exists():
                raise UsageError(f"{target} already holds {run.path.name}; choose another folder.")
        with explained(target):
            for run in self.runs:
                with complete_folder(target / run.path.name, lambda path: False) as draft:
                    ignored = shutil.ignore_patterns(LOCK, ".*.part")
                    shutil.copytree(run.path, draft, ignore=ignored, dirs_exist_ok=True)
        return target

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        manifest = self.runs[0].manifest
        names = f"{manifest['model']['name']} on {manifest['dataset']['spec']}"
        return f"<Results: {plural(len(self), 'run')} of {names}; .table() shows them>"

    def _by_token(self, baseline: str) -> tuple[list[Losses], list[Gains]]:
        """The losses of single tokens, and the gains on the baseline's where it has some."""
        losses, _ = all_losses(self.runs)
        other = baseline_of(self.runs, baseline)
        theirs = next((item for item in losses if item.run is other), None)
        if theirs is None:
            return losses, []
        return losses, [gains_of(item, theirs) for item in losses if item is not theirs]

    def _figures(self, baseline: str) -> dict[str, Figure]:
        palette = slots(self.runs, baseline)
        called = baseline_label(self.runs, baseline)
        losses, gains = self._by_token(baseline)
        figures = [loss_figure(losses, palette, called)] if losses else []
        figures += [position_figure(gains, palette, called)] if gains else []
        figures += cost_figures(self.runs, palette)[0]
        return {figure.name: figure for figure in figures}


def _estimate(what: str, bucket: Bucket | None) -> dict[str, float | None]:
    low, high = (bucket and bucket.estimate.interval) or (None, None)
    return {
        f"{what}_per_token": None if bucket is None else bucket.estimate.value,
        f"{what}_ci95_low": low,
        f"{what}_ci95_high": high,
    }

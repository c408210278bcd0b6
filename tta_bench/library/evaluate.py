"""`tta_bench.evaluate`: methods on documents, as `tta-bench eval` runs them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import add_plugin, plugin_files
from tta_bench.evaluation.execute import run_jobs
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.key_tokens import make_asked_for
from tta_bench.evaluation.plan import setting_specs
from tta_bench.library.given import (
    chosen_methods,
    named_documents,
    named_model,
    refuse_isolated,
    tokenizer_spec,
    tuned_methods,
)
from tta_bench.library.options import Options, suite_of
from tta_bench.library.results import Results
from tta_bench.library.session import session
from tta_bench.metrics import named
from tta_bench.store import Rerun, load_run
from tta_bench.tuning.stored import run_chosen

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tta_bench.library.given import Documents, Methods, Model

COMMAND = ("tta_bench.evaluate",)
"""What the manifest names as the command: the arguments of a notebook's kernel say nothing."""


def evaluate(
    model: Model,
    documents: Documents,
    methods: Methods = ("none",),
    *,
    tokenizer: Any = None,
    results: str | os.PathLike[str] | None = None,
    name: str | None = None,
    rerun: Rerun = "missing",
    metrics: Sequence[str] = (),
    plugins: Sequence[str | os.PathLike[str]] = (),
    trust_remote_code: bool = False,
    quiet: bool = False,
    debug: bool = False,
    **protocol: Unpack[Options],
) -> Results:
    """Runs methods on documents: the runs of `tta-bench eval`, with the same numbers.

        results = tta_bench.evaluate(
            (model, tokenizer),                        # or a spec, such as "smollm2-135m"
            ["a first text ...", "a second ..."],      # or a spec, a mapping, a Dataset
            ["none", "dynamic-eval:lr=1e-4", MyMethod, MyMethod.Params(rate=0.1)],
            chunk=256, max_tokens=4096,
        )
        results.frame()

    A model in memory is read with the dtype and on the device that it has, unless `dtype` and
    `device` say otherwise, and is afterwards what it was, bit for bit. Interrupted, an evaluation
    whose results are stored goes on where it stopped when it is called again.

    Args:
        model: as `--model` takes it, or a causal language model of transformers, alone or with its
            tokenizer as a pair.
        documents: as `--dataset` takes it, a list of texts, a mapping from keys to texts, or a
            `datasets.Dataset`.
        methods: one or several of: a spec, a class derived from `Method`, an instance of its
            `Params`, or what `tune` chose.
        tokenizer: the tokenizer of a model in memory; with a spec what `--tokenizer` takes.
        results: the folder that the group of runs is stored in; None: a folder that goes when the
            results do.
        name: name of the group of runs; by default it follows from what they share.
        rerun: documents of stored runs to read again: `missing`, also those that `failed`, or
            `all`.
        metrics: names of metrics to show beside those that are always shown.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.
        quiet: show no progress, only notes.
        debug: let exceptions of methods through.
        protocol: what `Options` lists: limits, protocol, dtype, device, lanes, audit, seed.

    Raises:
        BenchError: nothing can run: unknown names, no documents, a model or a method that is
            refused, too long a window. What a single method raises is in its run.
    """
    for file in plugins:
        add_plugin(Path(file))
    named(metrics)
    with ExitStack() as held:
        tuned, methods = tuned_methods(methods)
        choices = held.enter_context(chosen_methods(methods))
        column = protocol.get("text_column")
        dataset = held.enter_context(named_documents(documents, column))
        other, tokenizer = tokenizer_spec(model, tokenizer)
        of_model = held.enter_context(named_model(model, tokenizer))
        suite = suite_of(protocol, of_model, dataset, [choice.spec for choice in choices])
        suite.tokenizer = other
        if suite.isolate:
            refuse_isolated(of_model, choices)
        specs = [MethodSpec.of(choice, plugin_files()) for choice in choices]
        jobs = [
            Job(setting, spec)
            for setting in setting_specs(suite, trust_remote_code, COMMAND)
            for spec in specs
        ]
        scratch = tempfile.TemporaryDirectory(prefix="tta-bench-") if results is None else None
        folder = Path(results or "." if scratch is None else scratch.name)
        progress = held.enter_context(session(quiet))
        where: dict[str, Any] = {"name": name, "results": folder, "rerun": rerun, "debug": debug}
        if tuned:
            pairs = [(job, tuned.get(job.method.choice().spec)) for job in jobs]
            paths = list(run_chosen(pairs, progress, base=None, **where))
        else:
            paths = list(run_jobs(jobs, progress, **where))
        runs = [load_run(path) for path in paths]
        make_asked_for(runs, metrics, progress, trust_remote_code)
    return Results(runs, metrics, scratch)

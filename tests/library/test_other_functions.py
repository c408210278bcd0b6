"""`check`, `audit` and `train` as functions: their answers, and refusals of one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cheats import PeeksOneAhead
from in_memory import TEXTS, small_net, small_tokenizer
from slow import slow
from stored_runs import store_run

import tta_bench
from tta_bench import BenchError, Results, SlowWeights


@slow
def test_a_check_shows_what_the_probes_found():
    checked = tta_bench.check(PeeksOneAhead)
    assert checked.valid is False
    assert "causality" in checked.report.failed
    assert checked.report.method == PeeksOneAhead.name
    for shown in (repr(checked), checked._repr_html_()):
        assert "causality" in shown
        assert checked.report.summary in " ".join(shown.split())


REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "check two": ("check", (["none", "window"],), {}, "check takes one method"),
    "check nothing": ("check", ("non",), {}, "there is no method 'non'; did you mean 'none'?"),
    "audit nothing": ("audit", ("nowhere",), {}, "there is no run or group 'nowhere'"),
    "train option": (
        "train",
        ("fwl", list(TEXTS.values())),
        {"step": 3},
        "there is no option 'step'; did you mean 'steps'?",
    ),
    "train type": ("train", ("fwl", TEXTS), {"steps": "3"}, "'steps' must be a whole number"),
    "train zero": ("train", ("fwl", TEXTS), {"steps": 0}, "steps must be at least 1, not 0."),
    "train body": ("train", ("fwl", TEXTS), {"body": "half"}, "body must be one of frozen, joint"),
    "train untrained": ("train", ("ngram", TEXTS), {"device": "cpu"}, "has no slow weights"),
    "train object": ("train", (3, TEXTS), {}, "tta_bench.Method or a spec is needed, not int."),
}


CASES = [pytest.param(c, marks=slow) if REFUSED[c][0] == "train" else c for c in REFUSED]


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name, given, options, sentence = REFUSED[case]
    if name == "train":
        options = {"base": (small_net(), small_tokenizer()), "quiet": True, **options}
    with pytest.raises(BenchError) as refused:
        getattr(tta_bench, name)(*given, **options)
    said = str(refused.value)
    assert sentence in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_an_audit_of_what_was_in_memory_asks_for_it(tmp_path: Path):
    memory = {"name": "memory:0123456789ab", "source": "memory", "sha256": {"weights": "ab"}}
    method = {"name": "none", "spec": "none", "params": {}, "source_sha256": "ab"}
    run = store_run(tmp_path, model=memory | {"random_weights": False}, method=method)
    with pytest.raises(BenchError, match=r"memory:0123456789ab was a model in the memory of a Py"):
        tta_bench.audit(Results([run]), quiet=True)


@slow
@pytest.mark.parametrize("body", ["frozen", "joint"])
def test_a_base_in_memory_is_trained_on_a_copy(body: Any, tmp_path: Path):
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    options = {"steps": 2, "lanes": 2, "segment": 64, "windows": [32], "chunk": 16, "quiet": True}
    trained = tta_bench.train(
        "fwl:rates=2",
        list(TEXTS.values()),
        base=net,
        tokenizer=small_tokenizer(),
        body=body,
        output=tmp_path / "out",
        device="cpu",
        **options,
    )
    assert all((before[name] == value).all() for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    about = SlowWeights.describe(trained.weights)
    assert (about.method, about.options["rates"]) == ("fwl", 2)
    found = tta_bench.evaluate(
        (net, small_tokenizer()), TEXTS, trained.spec, chunk=16, audit="off", quiet=True
    )
    assert found.runs[0].status == "complete"

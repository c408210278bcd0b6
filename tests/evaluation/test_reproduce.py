"""`reproduce`: what agrees, within what, and what was different around the two runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import make_losses, make_manifest, make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import BenchError, DocumentError, ModelError, UsageError
from tta_bench.evaluation.agreement import CLOSE, DIFFERENT, EXACT, TOLERANCES, compare_runs
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.rerun import suite_of
from tta_bench.evaluation.suite import Suite
from tta_bench.store import Run, RunWriter, load_run
from tta_bench.store.files import sealed, to_json

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. " * 8
LR = 0.000123456789  # a spec rounds it to six digits, the manifest does not


# The comparison alone


def pair(tmp_path: Path, change: Any = None, **now: Any) -> tuple[Run, Run]:
    """A stored run, and the same again; `change` alters the rows and losses of the second."""
    threads = {"platform": {"cpu": "A", "threads": 1}}
    first = make_manifest() | threads
    with RunWriter.create(tmp_path / "then", first) as writer:
        for index in range(4):
            writer.append(make_row(index), make_losses(index))
        writer.finish({"status": "complete"})
    with RunWriter.create(tmp_path / "now", make_manifest() | threads | now) as again:
        for index in range(4):
            row, losses = make_row(index), make_losses(index)
            if change is not None:
                row, losses = change(row, losses)
            if row is not None:
                again.append(row, losses)
        again.finish({"status": "complete"})
    return load_run(writer.path), load_run(again.path)


def moved(by: float, only: int | None = None) -> Any:
    def change(row: Any, losses: Any) -> Any:
        if row.index != 1:
            return row, losses
        losses = losses.copy()
        losses[slice(None) if only is None else only] += np.float32(by)
        return row, losses

    return change


def verdicts(then: Run, now: Run) -> list[str]:
    return [document.verdict for document in compare_runs(then, now).documents]


def test_equal_losses_are_exact_and_bits_are_asked_for(tmp_path: Path) -> None:
    comparison = compare_runs(*pair(tmp_path))
    assert [d.verdict for d in comparison.documents] == [EXACT] * 4
    assert (comparison.demanded, comparison.reason, comparison.agrees) == (EXACT, None, True)
    assert comparison.documents[1].largest == 0.0
    assert comparison.environment == ()


def test_a_bit_is_too_much_where_nothing_differs_that_rounds(tmp_path: Path) -> None:
    comparison = compare_runs(*pair(tmp_path, moved(1e-6)))
    assert comparison.counts == {EXACT: 3, CLOSE: 1, DIFFERENT: 0}
    assert not comparison.agrees


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ({"platform": {"cpu": "B", "threads": 1}}, "platform.cpu"),
        ({"platform": {"cpu": "A", "threads": 2}}, "platform.threads"),
        ({"lanes": 1}, "lanes"),
        ({"software": {"packages": {"torch": "9"}}}, "software.packages.torch"),
    ],
)
def test_rounding_is_allowed_for_where_the_surroundings_differ(
    tmp_path: Path, now: Any, what: str
) -> None:
    comparison = compare_runs(*pair(tmp_path, moved(1e-6), **now))
    assert comparison.demanded == CLOSE
    assert what in (comparison.reason or "")
    assert what in [difference.what for difference in comparison.environment]
    assert comparison.agrees


def test_rounding_is_allowed_for_where_memory_ran_out(tmp_path: Path) -> None:
    """Some documents of it were read by four lanes, the others by two."""
    then = store_run(tmp_path / "a", summary={"lanes": 2})
    now = store_run(tmp_path / "b", lanes=2)
    comparison = compare_runs(then, now)
    assert comparison.demanded == CLOSE
    assert "the same number of lanes" in (comparison.reason or "")
    assert "lanes" not in [difference.what for difference in comparison.environment]
    assert suite_of(then).lanes == "2"


def test_tolerance_is_of_the_mean_and_of_any_token(tmp_path: Path) -> None:
    mean, token = TOLERANCES["float32"]
    other = {"lanes": 1}
    assert verdicts(*pair(tmp_path / "a", moved(3 * mean), **other))[1] == DIFFERENT
    # One token far off, though the mean hardly moves.
    far = compare_runs(*pair(tmp_path / "b", moved(3 * token, only=5), **other)).documents[1]
    assert far.largest == pytest.approx(3 * token, rel=1e-3)
    assert far.verdict == DIFFERENT
    assert verdicts(*pair(tmp_path / "c", moved(0.5 * token, only=5), **other))[1] == CLOSE


def test_without_losses_sums_are_compared(tmp_path: Path) -> None:
    then, now = pair(tmp_path, moved(1e-6), lanes=1)
    shutil.rmtree(then.path / "nll")
    comparison = compare_runs(then, now)
    assert [d.verdict for d in comparison.documents] == [EXACT, CLOSE, EXACT, EXACT]
    assert [d.largest for d in comparison.documents] == [None] * 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row, nll: (replace(row, sha256="0" * 64), nll), "another text"),
        (lambda row, nll: (replace(row, tokens=row.tokens - 1), nll[1:]), "tokens then"),
        (lambda row, nll: (replace(row, status="oom", reason="full"), None), "oom now (full)"),
        (lambda row, nll: (None, None), "not read now"),
    ],
)
def test_what_is_not_the_same_document_does_not_agree(
    tmp_path: Path, change: Any, reason: str
) -> None:
    def of_one(row: Any, losses: Any) -> Any:
        return change(row, losses) if row.index == 1 else (row, losses)

    comparison = compare_runs(*pair(tmp_path, of_one, lanes=1))
    assert [d.verdict for d in comparison.documents] == [EXACT, DIFFERENT, EXACT, EXACT]
    assert reason in (comparison.documents[1].reason or "")
    assert not comparison.agrees
    if reason == "another text":
        assert [d.what for d in comparison.environment] == ["lanes", "document 1"]


def test_a_document_that_failed_both_times_agrees(tmp_path: Path) -> None:
    manifest = {"dataset": {"spec": "d", "fingerprint": "f", "documents": 5}}
    extra = (make_row(4, "diverged", reason="the loss of token 7 is nan"),)
    then = store_run(tmp_path / "a", extra=extra, **manifest)
    now = store_run(tmp_path / "b", extra=extra, **manifest)
    found = compare_runs(then, now).documents[-1]
    assert (found.verdict, found.reason) == (EXACT, "diverged both times")


def test_damaged_losses_are_named(tmp_path: Path) -> None:
    then, now = pair(tmp_path)
    (then.path / "nll/00002.npz").write_bytes(b"x")
    with pytest.raises(BenchError, match=r"00002\.npz is damaged"):
        compare_runs(then, now)


def test_names_and_what_was_not_recorded_are_no_differences(tmp_path: Path) -> None:
    model = {"name": "copy", "sha256": "ab12", "random_weights": False, "architecture": "New"}
    then, now = pair(tmp_path, model=model)
    assert compare_runs(then, now).environment == ()


# From the manifest alone


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a model, a plugin, and runs of them."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "texts").mkdir()
    for index in range(3):
        (folder / f"texts/{index}.txt").write_text(f"Number {index}. {TEXT}")
    (folder / "plugin.py").write_text(PLUGIN)
    from tta_bench.model.locate import built_in_folder

    shutil.copytree(built_in_folder("tiny"), folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from tta_bench.contract.registry import add_plugin

        add_plugin(folder / "plugin.py")
        suite = Suite(
            models=["model"],
            datasets=["texts"],
            methods=["none", f"dynamic-eval:lr={LR},subset=last-1", "planted-bias"],
            protocol={"chunk": 32},
            max_tokens=100,
            seed=3,
        )
        for _ in run_suite(suite, Progress(quiet=True), name="mine"):
            pass
    return folder


PLUGIN = '''
import torch
from tta_bench import Method, register

@register("planted-bias")
class PlantedBias(Method):
    """Adds noise drawn under the run's seed."""
    family = "output"
    def prepare(self):
        self.noise = torch.randn(self.model.vocab_size)
    def score(self, window):
        return self.model.logits(window).full() + self.noise
'''


def reproduced(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["reproduce", *arguments, "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout.strip().split("\n")[-1])


def stored(home: Path, method: str) -> Path:
    (found,) = (home / "results/mine").glob(f"{method}-*")
    return found


def test_a_group_is_reproduced_to_the_last_bit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    code, found = reproduced("mine", "--plugin", "plugin.py")
    assert (code, found["agrees"]) == (0, True)
    assert len(found["runs"]) == 3
    for run in found["runs"]:
        assert (run["demanded"], run["counts"]["exact"]) == ("exact", 3), run
        assert run["environment"] == []
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert after == before, "without --results nothing is left behind"


def test_a_part_and_a_folder_to_keep_it_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run = stored(home, "dynamic-eval")
    code, found = reproduced(str(run), "--limit", "2", "--results", "again")
    assert code == 0
    assert [d["key"] for d in found["runs"][0]["documents"]] == ["0.txt", "1.txt"]
    (again,) = (home / "again/reproduce-mine").iterdir()
    assert load_run(again).manifest["method"]["params"]["lr"] == LR
    assert (again / "nll/00001.npz").read_bytes() == (run / "nll/00001.npz").read_bytes()
    shutil.rmtree(home / "again")


def test_other_numbers_set_the_exit_code_and_are_shown(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    copy = tmp_path / "none"
    shutil.copytree(stored(home, "none"), copy)
    rows = [json.loads(line) for line in (copy / "rows.jsonl").read_text().splitlines()]
    rows[1]["nll"] += 0.01
    shutil.rmtree(copy / "nll")
    lines = [to_json(sealed({k: v for k, v in row.items() if k != "crc32"})) for row in rows]
    (copy / "rows.jsonl").write_bytes(b"".join(lines))
    done = CliRunner().invoke(app, ["reproduce", str(copy)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "DOES NOT AGREE: 3 documents, 2 exact, 1 differs" in done.stdout


def test_what_cannot_be_had_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run = str(stored(home, "none"))

    def sentence(kind: type[BenchError]) -> str:
        with pytest.raises(kind) as caught:
            reproduced(run)
        return str(caught.value)

    (home / "texts").rename(home / "moved")
    assert "the documents of" in sentence(DocumentError)
    (home / "texts").mkdir()
    (home / "texts/0.txt").write_text("Another text.")
    assert "holds other texts here" in sentence(DocumentError)
    shutil.rmtree(home / "texts")
    (home / "moved").rename(home / "texts")
    config = home / "model/config.json"
    content = config.read_text()
    config.write_text(content + "\n")
    assert "has other hashes now" in sentence(ModelError)
    config.write_text(content)
    (home / "model").rename(home / "moved")
    assert "the weights of" in sentence(ModelError)
    (home / "moved").rename(home / "model")


def test_another_text_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    text = home / "texts/1.txt"
    content = text.read_text()
    text.write_text(content + "More.")
    code, found = reproduced(str(stored(home, "none")))
    text.write_text(content)
    assert code == 1
    (run,) = found["runs"]
    assert [d["verdict"] for d in run["documents"]] == ["exact", "differs", "exact"]
    assert [d["what"] for d in run["environment"]] == ["dataset.fingerprint", "document 1"]


def test_a_method_that_is_not_known_asks_for_its_file(tmp_path: Path) -> None:
    run = store_run(tmp_path, "nowhere")
    with pytest.raises(UsageError, match="name the file that registers it with --plugin"):
        reproduced(str(run.path))


def test_the_suite_is_that_of_the_manifest(tmp_path: Path) -> None:
    protocol = make_manifest()["protocol"] | {"prefix": "auto"}
    dataset = {"spec": "~/texts", "fingerprint": "f", "documents": 4, "max_tokens": 9}
    run = store_run(tmp_path, dataset=dataset, protocol=protocol, seeds={"torch": 5})
    suite = suite_of(run)
    assert (suite.limit, suite.max_tokens, suite.seed, suite.lanes) == (None, 9, 5, "4")
    assert suite.resolved_protocol().prefix == "1", "the id that was used, whatever it is called"
    assert suite_of(run, 2).limit == 2
    assert suite_of(run, 9).limit == 4
    shape = {"name": "config:~/shape.json", "random_weights": True}
    found = suite_of(store_run(tmp_path, model=shape)).models[0]
    assert found == f"config:{Path.home()}/shape.json"
    hub = {"name": "org/name@v1", "source": "hub", "commit": "1234", "random_weights": False}
    assert suite_of(store_run(tmp_path, model=hub)).models == ["org/name@1234"]


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(chunk=64, context=32, context_mode="cache", reset="never"),
        Protocol("lm-eval", window=64, prefix="eos"),
        Protocol("hf-guide", window=64, stride=32),
        Protocol("llama.cpp", window=64),
    ],
    ids=lambda protocol: protocol.name,
)
def test_every_protocol_comes_back(tmp_path: Path, protocol: Protocol) -> None:
    run = store_run(tmp_path, protocol=protocol.to_dict())
    found = suite_of(run).resolved_protocol()
    assert replace(found, prefix=protocol.prefix) == protocol
    assert found.prefix == ("1" if protocol.uses_prefix else "auto")


def test_a_run_without_rows_has_nothing_to_compare(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        pass
    with pytest.raises(UsageError, match="has read no document yet"):
        suite_of(load_run(writer.path))


def test_joined_documents_cannot_be_cut(tmp_path: Path) -> None:
    protocol = {"name": "krause", "window": 64, "chunk": 1024, "context": 0}
    run = store_run(tmp_path, protocol=protocol, prefix_id=None)
    assert suite_of(run).limit is None
    with pytest.raises(UsageError, match="joins its documents"):
        suite_of(run, 2)

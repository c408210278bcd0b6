"""`tta-bench eval` as a user runs it: tables, JSON, folders, plugins, and bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import in_a_process
from slow import slow

from tta_bench.store import load_group

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. " * 12


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.txt").write_text(f"Number {i}. {TEXT[:420]}")
    return folder


@slow
def test_json_is_one_object_on_the_last_line_and_the_run_is_stored(tta_bench, tmp_path, texts):
    done = tta_bench(
        "eval",
        "--dataset",
        texts,
        "--method",
        "none",
        "--method",
        "dynamic-eval",
        "--method",
        "fwl",
        "--chunk",
        64,
        "--name",
        "mine",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.strip().split("\n")[-1])["rows"]
    assert [row["method"] for row in rows] == ["none", "dynamic-eval", "fwl"]
    for row in rows:
        assert row["tokens"] == sum(document["tokens"] for document in row["documents"])
        assert row["nll"] == pytest.approx(sum(d["nll"] for d in row["documents"]))
        assert row["perplexity"] == pytest.approx(np.exp(row["nll"] / row["tokens"]))
        assert row["bits_per_byte"] > 0
        assert row["flops_agree"] is True, row
    assert rows[0]["flops_x_none"] == 1.0
    assert 1.0 < rows[1]["flops_x_none"] < 3.1
    assert rows[1]["delta_nats_per_token"] < 0
    (folder,) = (tmp_path / "results" / "mine").glob("none-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"]["name"] == "builtin:tiny"
    assert str(tmp_path) not in json.dumps(manifest)
    stored = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    vector = np.load(folder / stored[0]["nll_file"], allow_pickle=False)["nll"]
    assert vector.dtype == np.float32
    assert vector.sum(dtype=np.float64) == pytest.approx(stored[0]["nll"])
    shown = tta_bench("show", "mine", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "dynamic-eval" in shown.stdout


def test_lm_eval_protocol_on_a_jsonl_file(tta_bench, tmp_path):
    lines = [{"name": "a", "page": TEXT}, {"name": "b", "page": TEXT[:100]}]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = tta_bench(
        "eval",
        "--model",
        "builtin:tiny",
        "--dtype",
        "float32",
        "--dataset",
        "documents.jsonl",
        "--text-column",
        "page",
        "--protocol",
        "lm-eval",
        "--window",
        128,
        "--method",
        "none",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.strip().split("\n")[-1])["rows"]
    assert [d["key"] for d in row["documents"]] == ["a", "b"]
    assert row["word_perplexity"] > row["byte_perplexity"] > 1


def plugin_of_the_readme():
    (block,) = re.findall(r"```python\n(.*?register.*?)```", README, re.DOTALL)
    return block


def test_the_plugin_of_the_readme_runs_as_it_stands(tta_bench, tmp_path, texts):
    source = plugin_of_the_readme()
    assert len(source.strip().split("\n")) <= 15
    (tmp_path / "my_method.py").write_text(source)
    name = re.search(r'@register\("(.*?)"\)', source)[1]
    done = tta_bench(
        "eval",
        "--plugin",
        "my_method.py",
        "--dataset",
        texts,
        "--chunk",
        64,
        "--method",
        "none",
        "--method",
        name,
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    none, mine = json.loads(done.stdout.strip().split("\n")[-1])["rows"]
    assert mine["method"] == name
    assert mine["perplexity"] < none["perplexity"]


def test_a_file_dropped_into_methods_is_a_method(tmp_path):
    """Without a new install; in a copy of the checkout, so that this one stays clean."""
    import shutil

    for folder in ("tta_bench", "methods", "suites"):
        heavy = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=heavy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "methods" / "output" / "dropped.py").write_text(
        plugin_of_the_readme().replace('@register("', '@register("dropped-')
    )
    done = in_a_process("list", "methods", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "dropped-" in done.stdout, done.stderr


BAD_INPUT = {
    "unknown method": (
        ["--dataset", "ok.txt", "--method", "dynamic-evl"],
        "did you mean 'dynamic-eval'",
    ),
    "unknown parameter": (["--dataset", "ok.txt", "--method", "fwl:stap=3"], "did you mean 'step'"),
    "ill-typed parameter": (
        ["--dataset", "ok.txt", "--method", "neural-cache:window=big"],
        "must be a whole number",
    ),
    "method twice": (
        ["--dataset", "ok.txt", "--method", "none", "--method", "none"],
        "asked for 2 times",
    ),
    "unknown model": (
        ["--dataset", "ok.txt", "--model", "smollm2-135"],
        "did you mean 'smollm2-135m'",
    ),
    "no network": (["--dataset", "ok.txt", "--model", "nobody/nothing"], "no network"),
    "unknown dataset": (["--dataset", "builtin:pydocs"], "did you mean"),
    "missing file": (["--dataset", "nowhere.txt"], "nowhere.txt"),
    "empty file": (["--dataset", "empty.txt"], "empty"),
    "binary file": (["--dataset", "binary.txt"], "binary"),
    "not UTF-8": (["--dataset", "latin.txt"], "UTF-8"),
    "too long a window": (["--dataset", "ok.txt", "--chunk", "5000"], "positions"),
    "unknown suite": (["--suite", "quickstrat"], "did you mean 'quickstart'"),
    "unknown key in a suite": (["--suite", "bad.yaml"], "line 1: there is no key 'modles'"),
    "plugin that does not import": (["--plugin", "broken.py"], "cannot be imported"),
    "plugin without score": (["--plugin", "scoreless.py"], "lacks score"),
    "no such plugin": (["--plugin", "none.py"], "no plugin file"),
    "impossible protocol": (["--protocol", "lm-eval", "--dataset", "ok.txt"], "--window"),
    "bad prefix": (["--prefix", "99999", "--dataset", "ok.txt"], "--prefix must be"),
    "bad lanes": (["--lanes", "many", "--dataset", "ok.txt"], "--lanes must be"),
    "bad dtype": (["--dtype", "float12", "--dataset", "ok.txt"], "not a dtype"),
    "too short": (["--dataset", "short.txt"], "at least 2 tokens"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "ok.txt").write_text(TEXT * 20)
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("a")
    (folder / "binary.txt").write_bytes(b"\x00\x01\x02" * 50)
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "bad.yaml").write_text("modles: builtin:tiny\n")
    (folder / "broken.py").write_text(
        "import nowhere_to_be_found\nfrom tta_bench import Method, register\n"
        '@register("broken")\nclass Broken(Method):\n    pass\n'
    )
    (folder / "scoreless.py").write_text(
        'from tta_bench import Method, register\n@register("scoreless")\n'
        "class Scoreless(Method):\n    pass\n"
    )
    return folder


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence(tta_bench, bad_files, case, monkeypatch):
    arguments, words = BAD_INPUT[case]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = tta_bench("eval", *arguments, cwd=bad_files)
    assert done.returncode != 0
    assert words in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr
    assert not list(bad_files.glob("results/*/*/summary.json"))


def test_a_wrong_option_is_explained(tta_bench, tmp_path):
    done = tta_bench("eval", "--chunks", 3, cwd=tmp_path)
    assert done.returncode == 2
    assert "--chunk" in done.stderr


FAILURES = {
    "oom": ("raise torch.OutOfMemoryError('out of memory')", "oom", "out of memory"),
    "nan": ("return self.model.logits(window).full() * torch.nan", "diverged", "nan"),
    "error": ("raise KeyError('lost')", "error", "KeyError"),
    "exit": ("raise SystemExit(0)", "error", "SystemExit"),
}


@slow
def test_a_failing_method_is_a_row_and_the_next_still_runs(tta_bench, tmp_path, texts):
    plugin = ["import torch", "from tta_bench import Method, register"]
    for name, (body, _, _) in FAILURES.items():
        plugin += [f'@register("{name}")', f"class {name.title()}(Method):"]
        plugin += ["    def score(self, window):", f"        {body}"]
    (tmp_path / "failing.py").write_text("\n".join(plugin))
    methods = [word for name in (*FAILURES, "none") for word in ("--method", name)]
    words = ["--plugin", "failing.py", "--dataset", texts, "--chunk", 64, *methods, "--json"]
    done = tta_bench("eval", *words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    *failed, none = json.loads(done.stdout.strip().split("\n")[-1])["rows"]
    assert none["status"] == "complete"
    assert len(failed) == len(FAILURES)
    for row in failed:
        _, status, words = FAILURES[row["method"]]
        assert row["status"] == status
        assert {document["status"] for document in row["documents"]} == {status}
        assert re.search(rf"^{row['method']}: .*{words}", done.stderr, re.MULTILINE)


CHEAT = """
import torch
from tta_bench.store import load_group
from tta_bench import Method, register
@register("cheat")
class Cheat(Method):
    def score(self, window):
        logits = self.model.logits(window).full()
        ids = window.chunk_ids
        return logits + 9 * torch.nn.functional.one_hot(ids.roll(-1, 1), logits.shape[-1])
"""
VANDAL = """
import torch
from tta_bench import Method, register
@register("vandal")
class Vandal(Method):
    def score(self, window):
        return self.model.logits(window)
    def adapt(self, window, targets, nll):
        for value in self.model.net.parameters():
            value.data.mul_(0.98)
"""


def test_a_method_that_peeks_is_shown_but_never_ranked(tta_bench, tmp_path, texts):
    (tmp_path / "cheat.py").write_text(CHEAT)
    done = tta_bench(
        "eval",
        "--plugin",
        "cheat.py",
        "--dataset",
        texts,
        "--method",
        "none",
        "--method",
        "cheat",
        "--chunk",
        64,
        "--json",
        cwd=tmp_path,
    )
    none, cheat = json.loads(done.stdout.strip().split("\n")[-1])["rows"]
    assert cheat["perplexity"] < none["perplexity"]
    assert (none["valid"], none["ranked"]) == (True, True)
    assert (cheat["valid"], cheat["ranked"]) == (False, False)
    assert "NOT VALID" in done.stderr
    assert cheat["flops_x_none"] == pytest.approx(1.0, rel=1e-3)  # no formula, none's own work


@slow
def test_a_method_that_changes_the_shared_weights_harms_no_other(tta_bench, tmp_path, texts):
    (tmp_path / "vandal.py").write_text(VANDAL)
    done = tta_bench(
        "eval",
        "--plugin",
        "vandal.py",
        "--dataset",
        texts,
        "--method",
        "none",
        "--method",
        "vandal",
        "--method",
        "window:context=0",
        "--chunk",
        64,
        "--name",
        "mine",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    found = {run.method: run for run in load_group(tmp_path / "results" / "mine")}
    assert found["vandal"].status == "error"
    assert "left changed" in found["vandal"].summary["reason"]
    assert found["vandal"].summary["valid"] is False
    assert found["none"].summary["valid"] is found["window"].summary["valid"] is True
    assert [row.nll for row in found["none"].rows] == [row.nll for row in found["window"].rows]


def test_every_dataset_is_opened_before_the_first_is_read(tta_bench, tmp_path, texts):
    done = tta_bench(
        "eval",
        "--dataset",
        texts,
        "--dataset",
        "nowhere.txt",
        "--method",
        "none",
        "--chunk",
        64,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "nowhere.txt" in done.stderr
    assert not (tmp_path / "results").exists()


def test_statistics_of_the_evaluated_text_are_refused(tta_bench, tmp_path, texts):
    done = tta_bench(
        "eval",
        "--dataset",
        texts,
        "--method",
        f"dynamic-eval:optimizer=rms19,stats={texts}",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "must come from other text" in done.stderr


def test_ctrl_c_keeps_what_is_done(tmp_path):
    (tmp_path / "long.txt").write_text(TEXT * 400)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tta_bench", "eval", "--dataset", "long.txt", "--chunk", "16",
            "--method", "dynamic-eval", "--name", "cut",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background job ignores SIGINT, and so would everything it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/cut/*/rows.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "the same command again goes on from here" in output
    assert "tta-bench show" not in output
    (summary,) = tmp_path.glob("results/cut/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "interrupted"


def test_the_front_door_does_not_load_pytorch():
    """Help, lists and completion must answer at once."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from tta_bench.cli.main import app\n"
        "run = CliRunner().invoke\n"
        "for words in (['--help'], ['eval', '--help'], ['plan', '--help'], ['speed', '--help'],\n"
        "              ['train', '--help'], ['list', 'methods'], ['list', 'models'],\n"
        "              ['list', 'suites'], ['list', 'datasets']):\n"
        "    assert run(app, words).exit_code == 0, words\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_completion_names_methods_without_pytorch():
    environment = {
        "_TTA_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "tta-bench eval --method dyn",
        "COMP_CWORD": "3",
    }
    command = Path(sys.executable).with_name("tta-bench")
    done = subprocess.run(
        [command], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.stdout.strip() == "dynamic-eval"

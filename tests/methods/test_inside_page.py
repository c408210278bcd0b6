"""docs/inside.md says what trained methods inside the body gain, from the stored runs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tta_bench.statistics.paired import paired_difference
from tta_bench.store import Run, find_runs, load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/inside.md").read_text(encoding="utf-8")
TEXTS = ("books", "pypi", "debian", "wikitext")
"""Books, code, manuals, and a folder of articles."""

BOOKS = {"lf": "books", "npm": "books"}
"""On a GPU with line ends LF, on a CPU as they are."""

TUNED = "dynamic-eval:lr=0.0001"
SGD = "dynamic-eval:optimizer=sgd"
ROWS = (
    "window:context=256",
    "window:context=768",
    TUNED,
    "regression",
    "output-correction",
    "knn-lm",
    "knn-adapter:weights=control",
    "knn-adapter",
    "ttt-e2e:weights=control",
    "ttt-e2e:weights=control,step=1",
    "ttt-e2e",
    "in-place-ttt:weights=control",
    "in-place-ttt",
    "generative-adapter:weights=control",
    "generative-adapter",
    SGD,
    f"{SGD},weights=surprisal",
    f"{SGD},stats=builtin:stdlib,weights=tf-idf",
)
PAIRS = (
    ("knn-adapter", "knn-lm"),
    ("knn-adapter", "knn-adapter:weights=control"),
    ("knn-adapter", TUNED),
    ("knn-adapter", "window:context=768"),
    ("ttt-e2e", "ttt-e2e:weights=control"),
    ("ttt-e2e", TUNED),
    ("ttt-e2e", "window:context=768"),
    ("in-place-ttt", "in-place-ttt:weights=control"),
    ("generative-adapter", "generative-adapter:weights=control"),
    (f"{SGD},weights=surprisal", SGD),
    ("camels", SGD),
    ("camels", "camels:tokens=shuffled"),
)


ON_GPU = ("inside", "inside-wikitext")
ON_CPU = ("inside-cpu", "inside-cpu-wikitext")
SMOLLM2 = ("inside-smollm2", "inside-smollm2-wikitext")
JOINT = ("inside-joint", "inside-joint-wikitext")
STEPS = (
    ("camels", SGD),
    ("camels", "camels:tokens=shuffled"),
    ("ttt-e2e", "ttt-e2e:weights=control"),
    ("ttt-e2e", "ttt-e2e:weights=control,step=1"),
    ("ttt-e2e", SGD),
)


ON_SMOLLM2 = (
    "window:context=1024",
    "dynamic-eval:lr=0.0002",
    "knn-lm:weight=0.05",
    "knn-adapter:weights=control",
    "knn-adapter",
    "ttt-e2e:weights=control",
    "ttt-e2e:weights=control,step=1",
    "ttt-e2e",
)
PAIRS_ON_SMOLLM2 = (
    ("knn-adapter", "knn-adapter:weights=control"),
    ("knn-adapter", "knn-lm:weight=0.05"),
    ("knn-adapter", "dynamic-eval:lr=0.0002"),
    ("knn-adapter", "window:context=1024"),
    ("ttt-e2e", "ttt-e2e:weights=control"),
    ("ttt-e2e", "ttt-e2e:weights=control,step=1"),
    ("ttt-e2e", "dynamic-eval:lr=0.0002"),
    ("ttt-e2e", "window:context=1024"),
)
WITH_ITS_BODY = (
    "ttt-e2e",
    "ttt-e2e:weights=joint-control",
    "ttt-e2e:weights=joint-control,step=1",
    "ttt-e2e:weights=joint,step=0",
    "ttt-e2e:weights=joint",
)


def named(spec: str) -> str:
    """A row by the name of its weights, which were files of the training then."""
    spec = re.sub(r"weights=\S+?-(joint(-control)?)/weights.safetensors", r"weights=\1", spec)
    spec = re.sub(r":weights=\S+?-control/weights.safetensors", ":weights=control", spec)
    return re.sub(r":weights=\S+?/weights.safetensors", "", spec)


@cache
def stored(groups: tuple[str, ...]) -> dict[tuple[str, str], Run]:
    """Runs by the first part of the dataset and the method."""
    found = {}
    for group in groups:
        for run in load_group(find_runs(group, ROOT / "results", published=True)):
            assert run.summary["status"] == "complete"
            assert run.summary["valid"] is True
            kind = str(run.manifest["dataset"]["spec"]).split(":")[0]
            found[BOOKS.get(kind, kind), named(run.spec)] = run
    return found


def difference(texts: str, method: str, other: str, groups: tuple[str, ...] = ON_GPU) -> str:
    """With half its interval; a dash where one of them was not read."""
    runs = [stored(groups).get((texts, name)) for name in (method, other)]
    if None in runs:
        return "—"
    pair = paired_difference(*(run.rows for run in runs if run))
    assert pair.interval is not None
    return f"{pair.delta:+.3f} ±{(pair.interval[1] - pair.interval[0]) / 2:.3f}"


def cells(method: str, other: str, groups: tuple[str, ...] = ON_GPU) -> str:
    return " | ".join(difference(texts, method, other, groups) for texts in TEXTS)


def costs(method: str, groups: tuple[str, ...] = ON_GPU) -> str:
    summary, none = (stored(groups)["pypi", name].summary for name in (method, "none"))
    ratio = summary["flops_per_token"] / none["flops_per_token"]
    return f"{ratio:.2f} | {summary['state_bytes_per_lane'] / 1024:,.0f}"


def gains(method: str, groups: tuple[str, ...] = ON_GPU) -> str:
    """A line of a table of rows."""
    return f"| `{method}` | {costs(method, groups)} | {cells(method, 'none', groups)} |"


def against(one: str, other: str, groups: tuple[str, ...] = ON_GPU) -> str:
    """A line of a table of pairs."""
    return f"| `{one}` | `{other}` | {cells(one, other, groups)} |"


def lines(name: str) -> list[str]:
    (table,) = re.findall(rf"<!-- {name} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    return [line for line in table.splitlines() if line.startswith("| `")]


def test_the_tables_of_gains() -> None:
    assert lines("inside") == [gains(row) for row in ROWS]
    assert lines("smollm2") == [gains(row, SMOLLM2) for row in ON_SMOLLM2]
    assert lines("joint") == [gains(row, JOINT) for row in WITH_ITS_BODY]


def test_the_tables_of_pairs() -> None:
    assert lines("pairs") == [against(*pair) for pair in PAIRS]
    assert lines("cpu") == [against(*pair, ON_CPU) for pair in STEPS]
    assert lines("pairs-smollm2") == [against(*pair, SMOLLM2) for pair in PAIRS_ON_SMOLLM2]


def test_the_readme_says_how_far_they_are_before_dynamic_evaluation() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(r"are ([\d.]+) to ([\d.]+) nats a token better than tuned dynamic", readme)
    gains = [
        -float(difference(texts, name, TUNED).split()[0])
        for texts in ("pypi", "debian")
        for name in ("knn-adapter", "ttt-e2e")
    ]
    assert said == (f"{min(gains):.2f}", f"{max(gains):.2f}")


SLOTS = ("compressed",)
SLOTS_OF_LONG_CHUNKS = ("compressed-256",)
"""On a CPU in chunks of 64 tokens and of 256; there `window` is that of 512 tokens."""

COMPRESSED = {
    "window:context=512": "window",
    "streaming-llm:sinks=4,recent=60": "streaming-llm:recent=60",
    "compressed-memory:weights=control": "compressed-memory:weights=control",
    "compressed-memory": "compressed-memory",
}


def slots(groups: tuple[str, ...]) -> list[str]:
    """The lines of a table of slots."""
    found = []
    for name, spec in COMPRESSED.items():
        gains = " | ".join(difference(texts, spec, "none", groups) for texts in TEXTS[:3])
        found.append(f"| `{name}` | {costs(spec, groups)} | {gains} |")
    return found


def test_the_tables_of_slots() -> None:
    assert lines("compressed") == slots(SLOTS)
    assert lines("compressed-256") == slots(SLOTS_OF_LONG_CHUNKS)


def test_the_share_of_the_window_that_slots_keep() -> None:
    def gain(texts: str, spec: str, groups: tuple[str, ...]) -> float:
        return float(difference(texts, spec, "none", groups).split()[0])

    said = re.findall(r"keep (\d+), (\d+) and (\d+) % of what it gains", PAGE)
    assert said == [
        tuple(
            f"{100 * gain(texts, 'compressed-memory', groups) / gain(texts, 'window', groups):.0f}"
            for texts in TEXTS[:3]
        )
        for groups in (SLOTS, SLOTS_OF_LONG_CHUNKS)
    ]

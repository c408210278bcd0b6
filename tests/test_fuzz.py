"""Whatever is read, at worst one sentence comes out: never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stored_runs import make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.documents.sources import load_documents, open_source
from tta_bench.documents.tokens import tokenized
from tta_bench.errors import BenchError
from tta_bench.evaluate import choose_methods
from tta_bench.load import load_results
from tta_bench.model.load import prefix_id
from tta_bench.protocol import PROTOCOLS, Protocol
from tta_bench.rerun import suite_of
from tta_bench.store import is_whole, load_group, load_run
from tta_bench.store.catalog import list_runs
from tta_bench.store.files import sealed, unsealed
from tta_bench.suite import Suite, load_suite
from tta_bench.tables import document_tables, summary_tables
from tta_bench.validity.models import byte_tokenizer

fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Lets a BenchError pass, which the command line prints in a line; all else fails the test."""
    with suppress(BenchError):
        yield


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=12)
    | st.dates()
    | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
SUITE = """\
# A suite.
description: Something
models: [builtin:tiny]
datasets: builtin:pydoc
limit: 6
methods: [none, "dynamic-eval:optimizer=sgd,lr=1e-3"]
protocol:
  chunk: 256 # tokens
  context: 16
lanes: 4
"""


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut short, with bits flipped, or with other bytes put in."""
    place = st.integers(0, max(0, len(data) - 1))

    def flip(flips: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for where, bit in flips:
            changed[where] ^= 1 << bit
        return bytes(changed)

    return (
        place.map(lambda end: data[:end])
        | st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4).map(flip)
        | st.tuples(place, st.binary(max_size=8)).map(
            lambda put: data[: put[0]] + put[1] + data[put[0] + len(put[1]) :]
        )
    )


# Suites, method strings, protocols


def read_suite(path: Path) -> None:
    with one_sentence():
        suite = load_suite(str(path))
        suite.resolved_protocol()
        choose_methods(suite.methods)


@fuzzed
@given(damaged(SUITE.encode()) | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b"limit: 2020-13-45")
@example(b"limit: " + b"9" * 5000)
@example(b"lanes: 0x" + b"f" * 5000)
@example(b"[" * 5000)
@example(b"? [a]\n: 1")
@example(b"? {a: 1}\n: 1")
@example(b"limit: &a [*a]")
@example(b"<<: {limit: 3}")
@example(b"protocol: {<<: {chunk: 3}, ? [1] : 2}")
def test_suite_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    read_suite(path)


KEYS = st.sampled_from([*Suite.__dataclass_fields__, *Protocol.__dataclass_fields__]) | st.text(
    max_size=5
)


@fuzzed
@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=5))
def test_suites_of_any_values(tmp_path: Path, values: dict[str, Any]) -> None:
    import yaml

    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    read_suite(path)


@fuzzed
@given(st.text(max_size=20) | st.just("x" * 5000))
def test_names_of_suites(name: str) -> None:
    with one_sentence():
        load_suite(name)


NUMBERS = st.sampled_from(["nan", "inf", "-1", "0", "1e999", "9" * 5000, "1_0", "٣", "0x1", "1e-3"])
SPECS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["none", "dynamic-eval", "fwl", "neural-cache", "", "dynamic-evil"]),
    st.sampled_from(["", ":", "::", ":,"]),
    st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(
                ["lr", "optimizer", "subset", "interval", "window", "weight", "theta", "seed", ""]
            )
            | st.text(max_size=4),
            st.sampled_from(["=", "", "==", " = "]),
            NUMBERS
            | st.sampled_from(["sgd", "last-1", "last-x", "lora", "[", "]"])
            | st.text(max_size=6),
        ),
        max_size=3,
    ).map(",".join),
)


@fuzzed
@given(SPECS | st.text(max_size=30))
def test_method_strings(spec: str) -> None:
    with one_sentence():
        choose_methods([spec])


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([*PROTOCOLS, "x"]),
        "chunk": st.integers(-2, 40),
        "context": st.integers(-2, 40),
        "context_mode": st.sampled_from(["none", "recompute", "cache", ""]),
        "window": st.none() | st.integers(-2, 40),
        "stride": st.none() | st.integers(-2, 40),
        "prefix": st.sampled_from(["auto", "bos", "none", "7"]) | st.text(max_size=4),
        "reset": st.sampled_from(["document", "never", "x"]),
    },
)


@fuzzed
@given(OPTIONS, st.integers(0, 130))
def test_protocol_options(options: dict[str, Any], length: int) -> None:
    with one_sentence():
        protocol = Suite(protocol=options).resolved_protocol()
        targets: list[int] = []
        for span in protocol.plan(length):
            assert 0 <= span.start < span.stop < length
            assert 0 < span.scored <= span.stop - span.start
            targets += range(span.stop - span.scored + 1, span.stop + 1)
        assert targets == sorted(set(targets)), "left to right, every token once"


@fuzzed
@given(NUMBERS | st.text(max_size=6))
def test_prefixes(prefix: str) -> None:
    with one_sentence():
        found = prefix_id(prefix, byte_tokenizer(), 260)
        assert found is None or 0 <= found < 260


# Documents


def read_document(path: Path, text_column: str | None = None) -> None:
    with one_sentence():
        for document in load_documents(str(path), text_column=text_column):
            assert len(document.sha256) == 64
            document.key.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["text", "id", "key", "x", ""]), JSON, max_size=3) | JSON,
    max_size=4,
)


@fuzzed
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode(errors="surrogatepass"))
)
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe")
@example(b'{"text": "a", "id": ' + b"9" * 5000 + b"}")
def test_text_files(tmp_path: Path, content: bytes) -> None:
    for suffix in (".txt", ".jsonl", ".csv", ".parquet"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        read_document(path)


@fuzzed
@given(ROWS, st.none() | st.sampled_from(["text", "x", ""]))
@example([{"text": "\ud800"}], None)
@example([{"text": "a", "id": "\udfff"}], None)
def test_rows_of_json(tmp_path: Path, rows: list[Any], text_column: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    read_document(path, text_column)


@fuzzed
@given(
    st.lists(
        st.lists(
            st.sampled_from(["text", "id", "a,b", '"', '""', "\n", "\r", "\0", "1", ""]), max_size=4
        ),
        max_size=4,
    ).map(lambda rows: "\n".join(",".join(row) for row in rows)),
    st.none() | st.sampled_from(["text", ""]),
)
def test_rows_of_csv(tmp_path: Path, content: str, text_column: str | None) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, newline="")
    read_document(path, text_column)


@fuzzed
@given(st.text(max_size=25) | st.just("x" * 5000))
@example("~nobody-of-this-name/x")
@example("a\0b*")
@example("**/[")
@example("pypi:/etc")
@example("hf::::")
@example("builtin:")
def test_names_of_datasets(tmp_path: Path, spec: str) -> None:
    if not spec.startswith(("/", ".")) and ("*" in spec or "?" in spec or "[" in spec):
        spec = f"{tmp_path}/{spec}"  # a glob reads what it finds
    with one_sentence():
        open_source(spec, None)


@settings(fuzzed, max_examples=40)
@given(st.text(max_size=30), st.none() | st.integers(-1, 40), st.integers(-1, 40))
def test_tokenised_texts(
    tmp_path: Path, text: str, max_tokens: int | None, min_tokens: int
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(errors="ignore"))
    with one_sentence():
        found = tokenized(
            str(path),
            byte_tokenizer(),
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            cache_dir=tmp_path / "cache",
        )
        for document in found:
            assert document.n_bytes <= len(text.encode(errors="ignore"))


# Stored files

FILES = ("manifest.json", "rows.jsonl", "summary.json", "sessions.jsonl")


@pytest.fixture(scope="module", params=[1, 2], ids=["schema 1", "schema 2"])
def run_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The files of a small run, by name; those of schema 1 have no checksum."""
    group = tmp_path_factory.mktemp("group")
    extra = (make_row(2, "diverged", reason="the loss of token 7 is nan"),)
    run = store_run(group, documents=2, extra=extra)
    if request.param == 1:
        for name in ("manifest.json", "summary.json"):
            bare, _ = unsealed(json.loads((run.path / name).read_text()))
            (run.path / name).write_text(json.dumps(bare | {"schema_version": 1}))
        rows = (run.path / "rows.jsonl").read_text().splitlines()
        bare_rows = [json.dumps(unsealed(json.loads(row))[0]) + "\n" for row in rows]
        (run.path / "rows.jsonl").write_text("".join(bare_rows))
        (run.path / "sessions.jsonl").unlink()
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.name in FILES}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    run = folder / "group/run"
    shutil.rmtree(folder / "group", ignore_errors=True)
    run.mkdir(parents=True)
    for name, content in files.items():
        (run / name).write_bytes(content)
    return run


def use(run: Path, manifest: dict[str, Any]) -> None:
    """Everything that reads stored runs; `manifest` is the one that was written."""
    list_runs(run.parent)
    with one_sentence():
        load_results(run)
    with one_sentence():
        runs = load_group(run.parent)
        for table in [*summary_tables(runs), *document_tables(runs)]:
            table.to_markdown()
            table.to_csv()
    for command in ("show", "compare"):
        done = CliRunner().invoke(app, [command, str(run)])
        known = isinstance(done.exception, (type(None), SystemExit, BenchError))
        assert known, (command, done.exception)
    with one_sentence():
        suite_of(load_run(run), 1).resolved_protocol()
    with one_sentence():
        is_whole(run, manifest, "failed")


@settings(fuzzed, max_examples=40)
@given(data=st.data())
def test_damaged_files_of_runs(tmp_path: Path, run_files: dict[str, bytes], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(run_files)))
    run = write(tmp_path, run_files | {name: data.draw(damaged(run_files[name]))})
    use(run, json.loads(run_files["manifest.json"]))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON value, containers included."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from places(item, (*path, key))


@settings(fuzzed, max_examples=60)
@given(data=st.data())
def test_other_values_in_files_of_runs(
    tmp_path: Path, run_files: dict[str, bytes], data: Any
) -> None:
    """One value is replaced by any other, under a checksum that fits."""
    name = data.draw(st.sampled_from(["manifest.json", "summary.json", "rows.jsonl"]))
    lines = [unsealed(json.loads(line)) for line in _objects(name, run_files[name])]
    number = data.draw(st.integers(0, len(lines) - 1))
    value = lines[number][0]
    path = data.draw(st.sampled_from([p for p in places(value) if p]))
    target = value
    for key in path[:-1]:
        target = target[key]
    if data.draw(st.booleans()):
        target[path[-1]] = data.draw(JSON)
    elif isinstance(target, dict):
        del target[path[-1]]
    texts = [json.dumps(sealed(v) if had else v) + "\n" for v, had in lines]
    run = write(tmp_path, run_files | {name: "".join(texts).encode()})
    use(run, json.loads(run_files["manifest.json"]))


def _objects(name: str, content: bytes) -> list[bytes]:
    return content.splitlines() if name.endswith("jsonl") else [content]

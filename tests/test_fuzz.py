"""Whatever is read, at worst one sentence comes out: never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzzing import JSON, damaged, fuzzed, one_sentence
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow import slow

from tta_bench.documents.sources import load_documents, open_source
from tta_bench.documents.tokens import tokenized
from tta_bench.engine.protocol import PROTOCOLS, Protocol
from tta_bench.evaluation.plan import choose_methods
from tta_bench.evaluation.suite import Suite, load_suite
from tta_bench.model.prefix import prefix_id
from tta_bench.validity.models import byte_tokenizer

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


# Suites, method strings, protocols


def read_suite(path: Path) -> None:
    with one_sentence():
        suite = load_suite(str(path))
        suite.resolved_protocol()
        choose_methods(suite.methods)


@slow
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


@slow
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

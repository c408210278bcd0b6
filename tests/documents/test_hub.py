"""The hub's code path, on folders in its layout and against a stand-in for its server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tta_bench.documents import load_documents
from tta_bench.documents.hub import parse_hub_spec
from tta_bench.errors import DocumentError

CARD = """---
configs:
- config_name: small
  data_files:
  - split: heldout
    path: small/*.parquet
- config_name: large
  data_files:
  - split: train
    path: large/a-*.parquet
  - split: validation
    path: large/b.parquet
---
"""


@pytest.fixture(autouse=True)
def _no_cache_at_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def write_parquet(path: Path, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A dataset without a card: the splits are in the names of the files."""
    for split in ("train", "test"):
        names = [f"{split}-{i}" for i in range(3)]
        texts = [f"text {name}" for name in names]
        write_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet", id=names, text=texts)
    return tmp_path


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A dataset whose card names two configurations."""
    (tmp_path / "README.md").write_text(CARD)
    write_parquet(tmp_path / "small/x.parquet", page=["s1", "s2"])
    write_parquet(tmp_path / "large/a-0.parquet", page=["t1"])
    write_parquet(tmp_path / "large/a-1.parquet", page=["t2"])
    write_parquet(tmp_path / "large/b.parquet", page=["v1"])
    return tmp_path


def load(spec: str, **options: str) -> list[tuple[str, str]]:
    return [(document.key, document.text) for document in load_documents(spec, **options)]


def test_splits_of_a_folder_in_hub_layout(plain: Path) -> None:
    test = [(f"test-{i}", f"text test-{i}") for i in range(3)]
    train = [(f"train-{i}", f"text train-{i}") for i in range(3)]
    assert load(f"hf:{plain}") == test
    for spec in (f"hf:{plain}:train", f"hf:{plain}::train", f"hf:{plain}:default:train"):
        assert load(spec) == train


@pytest.mark.parametrize("name", ["a [1]", "st*r", "wh?t", "in [a]/it"])
def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path, name: str) -> None:
    for folder in (name, "a 1", "star", "what"):
        (tmp_path / folder / "data").mkdir(parents=True)
        write_parquet(tmp_path / folder / "data" / "test-0.parquet", text=[f"of {folder}"])
    assert [text for _, text in load(f"hf:{tmp_path / name}")] == [f"of {name}"]
    with pytest.raises(DocumentError, match="names no split"):
        load(f"hf:{tmp_path / name}::other")


def test_configurations_of_a_card(configured: Path) -> None:
    assert load(f"hf:{configured}:small") == [("heldout:1", "s1"), ("heldout:2", "s2")]
    assert load(f"hf:{configured}:large") == [("validation:1", "v1")]
    assert [text for _, text in load(f"hf:{configured}:large:train")] == ["t1", "t2"]


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("", r"pick one among the available configs: \['small', 'large'\]\.$"),
        (":medium", "BuilderConfig 'medium' not found. Available: "),
        (":large:test", "write ID:CONFIG:SPLIT with one of train, validation"),
    ],
)
def test_wrong_configurations_and_splits(configured: Path, rest: str, sentence: str) -> None:
    with pytest.raises(DocumentError, match=sentence):
        load(f"hf:{configured}{rest}")


def test_wrong_columns_and_folders(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no column 'page' .* its columns are id, text"):
        load(f"hf:{plain}:test", text_column="page")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DocumentError, match=r"nothing cannot be read: .* any data files"):
        load(f"hf:{tmp_path / 'nothing'}")


def test_the_library_streams(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = datasets.load_dataset

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    load(f"hf:{plain}")
    assert calls == [{"streaming": True}]


def test_hub_specs(tmp_path: Path) -> None:
    def parts(spec: str) -> tuple | None:
        source = parse_hub_spec(spec, None)
        return None if source is None else (source.id, source.config, source.split)

    assert parts("owner/name") == ("owner/name", None, None)
    assert parts("owner/name:conf:test") == ("owner/name", "conf", "test")
    assert parts("name::test") == ("name", None, "test")
    assert parts("a:b:c:d") is None
    assert parts("a/b/c") is None
    odd = tmp_path / "with:colon"
    odd.mkdir()
    assert parts(f"{odd}:conf") == (str(odd), "conf", None)


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(DocumentError, match=r"Hub cannot be reached: .* builtin:pydoc"):
        load("owner/name:conf:test")
    assert time.monotonic() - start < 5
    assert datasets.config.HF_HUB_OFFLINE is False


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "tta_bench.documents.hub.host_answers", lambda address: pytest.fail("asked")
    )
    with pytest.raises(DocumentError, match="Hub cannot be reached"):
        load("owner/name")


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that answers as the hub does for a repository it does not have."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            """Keeps the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("empty_hub")
def test_an_unknown_dataset_of_the_hub() -> None:
    with pytest.raises(DocumentError, match="There is no dataset owner/nothing:x on the Hugging"):
        load("owner/nothing:x")

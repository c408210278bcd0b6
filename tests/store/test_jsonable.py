"""Nested objects flattened to their leaves, by dotted name."""

from __future__ import annotations

from tta_bench.store.jsonable import leaves


def test_leaves_have_dotted_names_and_keep_their_values() -> None:
    manifest = {"key": "k1", "model": {"sha256": {"a": 1, "b": None}, "name": "x"}, "list": [1, 2]}
    assert leaves(manifest) == {
        "key": "k1",
        "model.sha256.a": 1,
        "model.sha256.b": None,
        "model.name": "x",
        "list": [1, 2],
    }


def test_an_empty_object_inside_is_a_leaf() -> None:
    assert leaves({"method": {"params": {}}}) == {"method.params": {}}
    assert leaves({}) == {}

"""Suite files are data: every value is checked, and what is wrong is said in one sentence."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.suite import installed_suites, load_suite


def written(folder, text):
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", installed_suites())
def test_every_suite_that_ships_is_valid(name):
    suite = load_suite(name)
    suite.resolved_protocol()
    assert suite.description


def test_single_names_and_numbers_are_read_as_people_write_them(tmp_path):
    suite = load_suite(
        written(tmp_path, "datasets: a.txt\nlanes: 4\nprotocol: {prefix: 5, context: 8}\n")
    )
    assert (suite.datasets, suite.lanes) == (["a.txt"], "4")
    protocol = suite.resolved_protocol()
    assert (protocol.prefix, protocol.context_mode) == ("5", "recompute")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limit: abc", "'limit' must be a whole number"),
        ('max_tokens: "64"', "'max_tokens' must be a whole number"),
        ("seed: true", "'seed' must be a whole number"),
        ("methods:", "'methods' must be a text or a list of texts"),
        ("methods: [[dynamic-eval]]", "'methods' must be a text or a list of texts"),
        ("protocol: [1, 2]", "'protocol' must be a mapping"),
        ("protocol: {chunk: big}", "'chunk' must be a whole number"),
        ("protocol: {chunk: 12.5}", "'chunk' must be a whole number"),
        ("protocol: {chunks: 12}", "did you mean 'chunk'"),
        ("modles: a", "did you mean 'models'"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_values_get_one_sentence(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        load_suite(written(tmp_path, text)).resolved_protocol()


@given(
    st.dictionaries(
        st.sampled_from(["models", "methods", "tune", "protocol", "limit", "lanes", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_no_suite_ends_in_a_traceback(tmp_path_factory, raw):
    import yaml

    path = tmp_path_factory.mktemp("suites") / "suite.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with suppress(BenchError):
        load_suite(str(path)).resolved_protocol()

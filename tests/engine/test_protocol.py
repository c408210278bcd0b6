"""Window plans: which inputs are read and which tokens scored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.engine.protocol import PROTOCOLS, Protocol
from tta_bench.engine.streams import full_step, step_shape
from tta_bench.errors import UsageError

lengths = st.integers(2, 400)


@given(lengths, st.integers(1, 50), st.integers(0, 60))
def test_stream_scores_every_token_once_with_its_context(length, chunk, context):
    mode = "recompute" if context else "none"
    protocol = Protocol(chunk=chunk, context=context, context_mode=mode)
    scored = []
    for span in protocol.plan(length):
        targets = range(span.stop - span.scored + 1, span.stop + 1)
        scored += targets
        assert span.stop - span.start <= protocol.inputs_per_window
        assert span.scored <= protocol.scored_per_window
        first_input = targets[0] - 1
        assert span.start == max(0, first_input - context)
    assert scored == list(range(1, length))


@given(lengths, st.integers(2, 64))
def test_lm_eval_scores_every_token_once_and_fills_the_last_window(length, window):
    spans = list(Protocol("lm-eval", window=window).plan(length))
    scored = [t for s in spans for t in range(s.stop - s.scored + 1, s.stop + 1)]
    assert scored == list(range(1, length))
    assert spans[-1].stop - spans[-1].start == min(window, length - 1)


@given(lengths, st.integers(2, 64), st.data())
def test_hf_guide_scores_all_but_what_the_guide_leaves_out(length, window, data):
    stride = data.draw(st.integers(1, window))
    spans = list(Protocol("hf-guide", window=window, stride=stride).plan(length))
    scored = [t for s in spans for t in range(s.stop - s.scored + 1, s.stop + 1)]
    assert scored == sorted(set(scored))
    if stride < window:
        assert scored == list(range(1, length))
    else:
        assert scored == [t for t in range(length) if t % window]


@given(st.integers(2, 400), st.integers(4, 64))
def test_disjoint_protocols_drop_the_tail(length, window):
    krause = list(Protocol("krause", window=window).plan(length))
    llama = list(Protocol("llama.cpp", window=window).plan(length))
    assert len(krause) == len(llama) == length // window
    assert all(span.scored == window - 1 for span in krause)
    assert all(span.scored == window - window // 2 - 1 for span in llama)


extremes = st.sampled_from([None, -(10**12), -1, 0, 1, 2, 3, 5, 64, 10**12])


@given(
    st.sampled_from(sorted(PROTOCOLS)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("chunk", "context"), extremes)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("window", "stride"), extremes)),
    st.sampled_from(["none", "recompute", "cache"]),
    st.sampled_from([0, 1, 2, 3, 4, 100]),
)
def test_extreme_numbers_are_refused_or_read_as_any_other(name, sizes, windows, mode, length):
    given_sizes = {key: value for key, value in sizes.items() if value is not None}
    try:
        protocol = Protocol(name, context_mode=mode, **given_sizes, **windows)
    except UsageError:
        return
    spans = list(protocol.plan(length))
    scored = [t for s in spans for t in range(s.stop - s.scored + 1, s.stop + 1)]
    assert scored == sorted(set(scored))
    assert set(scored) <= set(range(1, length))
    widest = full_step(protocol, max(length, 1))
    assert widest.scored >= 1
    for span in spans:
        shape = step_shape(span, protocol)
        assert 1 <= shape.scored <= widest.scored
        assert shape.scored <= shape.inputs <= widest.inputs
        assert shape.past <= widest.past


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "stream"])
def test_a_protocol_without_chunks_keeps_its_key(name):
    """Runs of it are stored with the default chunk of their day, which must not follow ours."""
    assert Protocol(name, window=64).to_dict()["chunk"] == 1024
    assert Protocol(chunk=64).to_dict()["chunk"] == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "strem"}, "no protocol 'strem'"),
        ({"name": "lm-eval"}, "needs --window"),
        ({"name": "lm-eval", "window": 8, "stride": 2}, "--stride does not go"),
        ({"name": "hf-guide", "window": 8, "stride": 9}, "between 1 and --window"),
        ({"name": "krause", "window": 8, "context": 3}, "--context does not go"),
        ({"name": "llama.cpp", "window": 2}, "use --window of at least 3"),
        ({"name": "krause", "window": 8, "chunk": 3}, "--chunk does not go"),
        ({"window": 512}, "the stream protocol takes --chunk"),
        ({"chunk": 0}, "--chunk must be at least 1"),
        ({"context": 8}, "does not go with --context-mode none"),
        ({"context_mode": "cache"}, "give a context above 0"),
        ({"context_mode": "all"}, "--context-mode must be one of"),
        ({"reset": "sometimes"}, "--reset must be"),
    ],
)
def test_impossible_protocols_are_refused_in_one_sentence(arguments, words):
    with pytest.raises(UsageError, match=words):
        Protocol(**arguments)

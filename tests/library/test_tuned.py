"""`tta_bench.tune`: a choice for a model in memory, and what `evaluate` makes of it."""

from __future__ import annotations

import pytest
from in_memory import TEXTS, small_net, small_tokenizer

import tta_bench
from tta_bench import UsageError
from tta_bench.store.tuning import tuning_of

SHIPS = "{0}. Thirteen ships sailed north, and {0} came home. "
OTHERS = {f"other {number}": SHIPS.format(number) * 9 for number in (1, 2)}
SPACE = "regression:target=error|embedding"
READ = {"chunk": 16, "max_tokens": 64, "quiet": True}


@pytest.fixture(scope="module")
def tuned() -> tta_bench.library.tune.Tuned:
    pair = small_net(), small_tokenizer()
    return tta_bench.tune(pair, OTHERS, SPACE, **READ)


def test_it_chooses_the_trial_of_the_lowest_loss(tuned):
    frame = tuned.frame()
    assert set(frame.space) == {SPACE}
    (chosen,) = frame[frame.chosen].trial
    assert frame.set_index("trial").nll_per_token.idxmin() == chosen
    assert tuned.methods == [chosen]
    assert "chosen" in repr(tuned)
    assert "<table" in tuned._repr_html_()


def test_what_it_chose_is_evaluated_and_the_manifest_says_how(tuned):
    pair = small_net(), small_tokenizer()
    results = tta_bench.evaluate(pair, TEXTS, ["none", *tuned], **READ)
    assert [run.spec for run in results.runs] == ["none", *tuned.methods]
    chosen = [tuning_of(run.manifest) for run in results.runs]
    assert chosen[0] is None
    assert [one.chosen for one in chosen[1:]] == tuned.methods
    assert chosen[1].trials[0].documents == len(OTHERS)
    assert "tuned over" in str(results)


def test_texts_that_were_tuned_on_are_refused(tuned):
    pair = small_net(), small_tokenizer()
    with pytest.raises(UsageError, match="other 1"):
        tta_bench.evaluate(pair, TEXTS | OTHERS, ["none", *tuned], **READ)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [("none", "no method has a set"), (["slot:lr=0.1|x"], "'lr' must be"), ([], "is empty")],
)
def test_a_refusal_is_one_sentence(methods, sentence):
    pair = small_net(), small_tokenizer()
    with pytest.raises(UsageError, match=sentence) as refused:
        tta_bench.tune(pair, OTHERS, methods, **READ)
    assert "\n" not in str(refused.value)

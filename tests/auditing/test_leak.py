"""Whoever reads better than the best reader has seen the answers."""

from __future__ import annotations

import numpy as np

from tta_bench.auditing.leak import leak_finding
from tta_bench.oracle.best import best_readers

READERS = best_readers("oracle:nothing", 4, 4096, 4000)
BEST = [reader.learning for reader in READERS]


def test_the_best_reader_and_a_bad_one_pass() -> None:
    assert leak_finding(BEST, BEST).status == "pass"
    worse = [losses + 3 for losses in BEST]
    finding = leak_finding(worse, BEST)
    assert finding.status == "pass"
    assert finding.value == -3


def test_honest_guesses_pass_though_they_are_lucky_at_times() -> None:
    """Uneven probabilities gain or lose by chance; on average they lose."""
    random = np.random.default_rng(0)
    for _ in range(200):
        log_odds = random.normal(scale=0.3, size=64)
        log_p = log_odds - np.log(np.exp(log_odds).sum())
        symbols = random.integers(64, size=(4, 4096))
        assert leak_finding(list(-log_p[symbols]), [np.full(4096, np.log(64))] * 4).status == "pass"


def test_answers_that_were_seen_are_found_though_the_alphabet_was_not() -> None:
    """5 nats lost on each early token hide what is gained late in the sum, not from here."""
    late = np.arange(4096) >= 2048
    leaking = [np.where(late, losses - 0.01, losses + 5) for losses in BEST]
    finding = leak_finding(leaking, BEST)
    assert finding.status == "fail"
    assert "from token 2048 of each document on" in finding.sentence
    assert "seen early" in finding.sentence


def test_what_rounding_can_do_is_no_leak() -> None:
    assert leak_finding([losses - 0.0019 for losses in BEST], BEST).status == "pass"
    assert leak_finding([losses - 0.0021 for losses in BEST], BEST).status == "fail"

"""The mark of tests that take long, which a quick `make test` leaves out and CI runs.

They run as well where golden numbers from elsewhere are tried: none of those may be left out. CI
has an hour and a half: on a slow machine the last of them are skipped, and the report says so.
"""

import os
import time

import pytest

RUNS_SLOW = os.environ.get("TTA_BENCH_SLOW") == "1" or "TTA_BENCH_GOLDEN" in os.environ
UNTIL = float(os.environ.get("TTA_BENCH_SLOW_UNTIL", "inf"))
"""The time, in seconds since 1970, after which no test that takes long begins."""

_REASON = "takes long; set TTA_BENCH_SLOW=1"
slow = pytest.mark.skipif(not RUNS_SLOW, reason=_REASON)


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is marked as one that takes long."""
    return any(mark.kwargs.get("reason") == _REASON for mark in item.iter_markers("skipif"))


def skip_if_late(item: pytest.Item) -> None:
    """Skips a test that takes long where the time for those is over."""
    if is_slow(item) and time.time() > UNTIL:
        pytest.skip("takes long, and TTA_BENCH_SLOW_UNTIL is over")

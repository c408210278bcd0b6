"""The mark of tests that take long, which a quick `make test` leaves out and CI runs.

They run as well where golden numbers from elsewhere are tried: none of those may be left out.
"""

import os

import pytest

RUNS_SLOW = os.environ.get("TTA_BENCH_SLOW") == "1" or "TTA_BENCH_GOLDEN" in os.environ

slow = pytest.mark.skipif(not RUNS_SLOW, reason="takes long; set TTA_BENCH_SLOW=1")

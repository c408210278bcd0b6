"""Files of losses that hold something else than the losses of their document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import store_run

from tta_bench.errors import BenchError


def test_losses_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    file = run.path / "nll/00000.npz"
    np.savez_compressed(file, nll=np.zeros(10**6, dtype=np.float32))
    assert file.stat().st_size < 10_000
    with pytest.raises(BenchError, match=r"unpacks to 4,000,128 bytes"):
        run.nll(replace(run.rows[0], nll_sha256=None))

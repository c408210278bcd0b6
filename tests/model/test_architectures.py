"""Every architecture that transformers registers as a causal LM is read rightly, or refused.

Each is built tiny, with random weights, and read by the bench and by the plainest loop over forward
passes of transformers; docs/models.md lists what was found. A few of every kind are read always.
"""

from __future__ import annotations

from functools import partial

import models_page
import pytest
import readings
import transformers
from architectures import ARCHITECTURES, NOT_BUILT, tiny_net
from readings import outcomes
from slow import RUNS_SLOW

FEW = (
    "bart",
    "bert",
    "falcon_h1",
    "gemma3_text",
    "gpt2",
    "llama",
    "llama4_text",
    "mamba",
    "mistral",
    "opt",
    "xlnet",
)

READ = [kind for kind in (ARCHITECTURES if RUNS_SLOW else FEW) if kind not in NOT_BUILT]
ROWS = models_page.rows()


@pytest.mark.parametrize("kind", READ)
def test_it_is_read_rightly_or_refused(kind: str) -> None:
    found = outcomes(tiny_net(kind))  # which fails where a reading is wrong
    assert found == ROWS.get(kind, found), "write docs/models.md anew: see models_page.py"


def test_the_page_leaves_no_architecture_out() -> None:
    assert not ROWS.keys() & NOT_BUILT.keys()
    assert models_page.not_built() == NOT_BUILT
    if models_page.version() == transformers.__version__:
        assert sorted([*ROWS, *NOT_BUILT]) == ARCHITECTURES


def test_what_is_wrong_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that forget their context are not those that the bench reads."""
    protocol, _ = readings.PROTOCOLS["recompute"]
    forgetful = partial(readings.chunks, chunk=protocol.chunk)
    monkeypatch.setitem(readings.PROTOCOLS, "recompute", (protocol, forgetful))
    with pytest.raises(AssertionError, match="recompute"):
        outcomes(tiny_net("llama"))

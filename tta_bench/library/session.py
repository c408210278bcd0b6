"""What an evaluation touches of the process around it, put back when it is over."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tta_bench.evaluation.progress import Progress


@contextmanager
def session(quiet: bool) -> Iterator[Progress]:
    """Shows progress; leaves random generators and the messages of transformers as they were.

    Args:
        quiet: show nothing but notes.
    """
    from transformers.utils import logging

    loud, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with (
            torch.random.fork_rng(devices=list(devices)),
            torch.inference_mode(False),
            torch.enable_grad(),
            Progress(quiet=quiet) as progress,
        ):
            yield progress
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logging.set_verbosity(loud)
        if bars:
            logging.enable_progress_bar()

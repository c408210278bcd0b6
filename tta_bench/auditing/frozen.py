"""The model that all methods share: taken down before a method runs, compared afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.auditing.finding import Finding
from tta_bench.model.scores import row_losses
from tta_bench.model.window import Window
from tta_bench.validity.fingerprint import differences, fingerprint
from tta_bench.validity.process import ProcessState

if TYPE_CHECKING:
    import numpy as np

    from tta_bench.model.language_model import LanguageModel

STRETCH = 256
"""Tokens of a document that the frozen model reads before and after each method."""


OTHER_KERNEL, OTHER_KERNEL_OF_16_BITS = 1e-3, 0.5
"""The most that a token's loss may move, in nats, where attention is computed by another kernel."""


class FrozenModel:
    """What a model, and the process around it, were when this was made.

    Attributes:
        process: settings and functions of the process.
        seconds: the time that taking all this down took.

    Args:
        model: the shared model.
        token_ids: [n] ids of a document, of which the first `STRETCH` are read.
    """

    def __init__(self, model: LanguageModel, token_ids: np.ndarray):
        self.model = model
        self._ids = torch.tensor(token_ids[: STRETCH + 1].tolist(), device=model.device)[None]
        started = time.perf_counter()
        model.compiled = False
        model.one_by_one(())  # the bench's own forms for lanes stand in the modules from now on
        self._fingerprint = fingerprint(model)
        self.process = ProcessState(threads=False)  # the audit counts those that are started
        self._losses = self._read()
        self._attention = model.config._attn_implementation
        self.seconds = time.perf_counter() - started

    def finding(self) -> Finding:
        """Whether all is as it was, bit for bit."""
        self.model.compiled = False
        changed = self.process.changes()
        changed += differences(self._fingerprint, fingerprint(self.model))
        losses = self._read()
        if not changed and not self._same(losses):
            changed = [f"the losses of {losses.numel()} tokens of a document"]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            sentence = f"the method left changed: {', '.join(changed[:3])}{more}."
            return Finding("frozen", "fail", float(len(changed)), sentence)
        sentence = (
            f"the frozen model reads {losses.numel()} tokens as before, bit for bit; no weight, "
            "buffer, hook, flag or function has changed."
        )
        return Finding("frozen", "pass", 0.0, sentence)

    def _same(self, losses: Tensor) -> bool:
        """Bit for bit, unless the bench itself gave the model another attention to compile it."""
        if self.model.config._attn_implementation == self._attention:
            allowed = 0.0
        else:
            wide = self.model.dtype.itemsize > 2
            allowed = OTHER_KERNEL if wide else OTHER_KERNEL_OF_16_BITS
        # A loss that is no number is the same as before where it was none before.
        same = torch.isclose(losses, self._losses, rtol=0.0, atol=allowed, equal_nan=True)
        return bool(same.all())

    def _read(self) -> Tensor:
        """The frozen model's own losses, [1, n]."""
        inputs, targets = self._ids[:, :-1], self._ids[:, 1:]
        count = torch.full((1,), inputs.shape[1], device=inputs.device)
        window = Window(inputs, count, count, inputs.shape[1])
        with torch.inference_mode():
            return row_losses(self.model.logits(window).full(), targets)

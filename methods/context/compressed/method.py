"""`compressed-memory`: a few slots stand for each chunk read (CCM, Kim et al. 2024).

    chunk i, behind Mem_(i-1), is predicted by the frozen model
    (K_i, V_i) = keys and values of n COMP tokens that read Mem_(i-1) and chunk i
    Mem_i = [Mem_(i-1); (K_i, V_i)]                               concat
    Mem_i = (1 - 1/i) Mem_(i-1) + (1/i) (K_i, V_i)                merge, with uniform weights

in every layer (arXiv 2312.03414, section 3). COMP tokens have embeddings of their own, and pass
through low-rank corrections of the projections q, k, v and o that no token of the text passes
through (conditional LoRA). Both are trained for the losses of the chunks that follow. A token of
the text stands at its place in the document, the first COMP token where the next chunk will begin,
and keys are kept as they were turned there.

`concat` keeps the slots of the last `chunks` groups, `merge` one group for the whole document.
Where a run's chunks are longer than the windows that the COMP tokens were trained on, a chunk is
compressed in pieces of that length, each behind the groups of those before.
Nothing of the text itself is kept. A step never waits for the device.

Equal to the authors' whole model under its training masks (snu-mllab/Context-Memory@a89dd08e,
concat_recur and merge_recur). Departures: SUM tokens, whose keys theirs replaces by the mean, are
left out, since nothing reads what they compute; so are corrections of q and o in the last block,
which lead nowhere. Theirs is trained on one answer behind a context, with dropout; here every
chunk of a text is scored, window by window, as it is read. The oldest slots are dropped as in their
streaming script, which otherwise keeps sinks and recent tokens as well, and numbers positions
inside the cache. The control (`fast=no`) keeps as many slots at the same places, of COMP tokens
that see each other and not the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tta_bench import (
    ContextMethod,
    LaneCache,
    LanguageModel,
    Needs,
    SlowWeights,
    StepShape,
    UsageError,
    Window,
    register,
)
from tta_bench.heads import TrainedMethod
from tta_bench_methods.context.compressed.module import CompressedContext, CompressionOptions
from tta_bench_methods.context.compressed.writer import projections

_PROBED: dict[str, Any] = {"slots": 2, "chunks": 3}
"""Options of random weights: probes read little."""


@register("compressed-memory")
class CompressedMemory(TrainedMethod, ContextMethod):
    """A few trained slots of keys and values for each chunk read (CCM, Kim et al. 2024)."""

    graphs = True
    Slow = CompressionOptions
    weights_folder = Path(__file__).parents[2] / "weights"
    off: ClassVar[dict[str, object]] = {"chunks": 0}

    @dataclass
    class Params(TrainedMethod.Params):
        """What is loaded, and how much is kept."""

        chunks: int | None = field(
            default=None,
            metadata={"help": "groups of slots to keep; none: as many as trained with; 0: off"},
        )

        def __post_init__(self) -> None:
            if self.chunks is not None and self.chunks < 0:
                raise ValueError("chunks must be at least 0.")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: CompressionOptions) -> CompressedContext:
        return CompressedContext(model, slow)

    @classmethod
    def random_weights(cls, model: LanguageModel) -> CompressedContext:
        """As in `TrainedMethod`, with few slots."""
        module = cls.slow_weights(model, cls.Slow(**_PROBED))
        for correction in module.corrections:
            correction.up.normal_(std=correction.up.shape[1] ** -0.5)
        return module

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        if params.chunks == 0:
            return Needs()
        if step.past:
            raise UsageError("it carries keys of its own; leave out --context-mode cache.")
        projections(model)
        model.require_carry()
        file = cls.weights_file(params.weights, model)
        options = _PROBED if file is None else SlowWeights.describe(file).options
        slots = cls.Slow(**options).kept(params.chunks)
        # It changes no weights; but corrections stand beside them, on one device.
        return Needs(positions=slots.size + step.scored, weights=True)

    def prepare(self) -> None:
        self.span = 0  # tokens that a group stands for at most; 0: all of a chunk
        file = self.weights_file(self.params.weights, self.model)
        if file is not None:
            self.span = max(SlowWeights.describe(file).windows, default=0)
        super().prepare()

    def use(self, module: CompressedContext) -> None:
        """Takes the module into service: float32 at least, on the model's device, no gradients."""
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.module = module.to(self.model.device, dtype).requires_grad_(False)
        if self.params.chunks is not None:
            self.module.slots = replace(module.slots, chunks=self.params.chunks)
        self.module.attach(self.model)
        self._past: LaneCache | None = None

    def init_state(self) -> dict[str, Tensor]:
        """As in `CompressedContext`, without lanes; keys and values in the model's own dtype.

        Those of a mean are kept in float32: in bfloat16 it would stand still after some chunks.
        """
        slots = self.module.slots
        if slots.size == 0:
            return {}
        self.model.require_carry()  # which is tried now, so that no step is charged with it
        dtype = self.module.tokens.dtype if slots.merge else self.model.dtype
        return {
            name: value[0].to(dtype) if value.is_floating_point() else value[0]
            for name, value in self.module.fresh_state(1).items()
        }

    def provide(self, window: Window) -> Window:
        """The chunk behind the lane's memory, in place of what the protocol shows of it."""
        if not self.state:
            return window
        held = self.module.slots.held(self.state["groups"])
        self._past = LaneCache.of(self.module.memory(self.state, self.model.dtype), held)
        self._past.positions = self.state["read"].clone()
        return Window(window.chunk_ids, window.scored, window.scored, window.chunk_size, self._past)

    @torch.no_grad()
    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Compresses the chunk into its slots."""
        if self._past is None:
            return
        past, self._past = self._past.taken(), None
        after = self.module.written(past, window.mask, self.state, self.span)
        for name, value in after.items():
            self.state[name].copy_(value)

    def provided(self, shape: StepShape) -> StepShape:
        if not self.state:
            return shape
        return StepShape(shape.scored, shape.scored, self.module.slots.size)

    def flops(self, shape: StepShape) -> float:
        chunk = self.cost.forward(self.provided(shape))
        if not self.state:
            return chunk
        span = self.span or shape.scored
        pieces = [min(span, shape.scored - start) for start in range(0, shape.scored, span)]
        return chunk + sum(self._writing(piece) for piece in pieces)

    def _writing(self, tokens: int) -> float:
        """FLOPs of compressing so many tokens into a group."""
        group = self.module.slots.group
        shape = StepShape(group, group, self.module.slots.size + tokens)
        forward = self.cost.forward(shape) - self.cost.unembed(group)
        return forward + self.module.correction_flops()

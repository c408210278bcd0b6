"""`regression`: test-time regression on a frozen model (Wang, Shi & Fox 2025, arXiv 2501.12352).

A linear map W from the hidden state to its error is fitted while a document is read, and corrects
what is read next:

    k_t = h_t / |h_t|,   o_t = W^T k_t,   logits_t = E (h_t + step / e * o_t)

with e the mean of |E_y|^2 over the vocabulary, so that one step serves models of any scale. Past
d = 192 hidden units it is divided by d / 192, since what a ridge fit takes from noise grows with d:
a rule from a few tuning texts on SmolLM2-135M, while 40 for the built-in model comes from a stored
search (`results/frontier-tuning`). W is the answer to a regression of
values v_s on keys k_s over the document so far, by the framework's three choices:

weights over time: a position counts `decay` to the power of its distance, in tokens;
function class: linear maps, or `function=kernel`: no map, but the mean of the values of the last
    `window` positions, weighted by exp(theta k_t . k_s) (Nadaraya-Watson, as softmax attention is);
solver: `exact`, W = (sum k k^T + ridge I)^{-1} sum k v^T (the "Mesa" layer), or `sgd`, one step of
    size `rate` a position (the delta rule; with a decay the gated one).

Values (`target`): `residual` is what the prediction still lacked, E^T (onehot(y_t) - p_t), on top
of the correction o_t that it had, so that the exact solution takes a Newton-like step on the loss;
`error` is E^T (onehot(y_t) - p_t) of what stands below; `embedding` is E_y less the mean embedding,
for which no probabilities are needed.

W is solved for at the start of each chunk (`reads=chunk`). With `reads=token` position t also has
what the chunk itself taught before t: a value carries the label y_s, which is read at t for s < t
alone. That costs a second unembedding for `target=residual`, whose values are those of W at the
start of the chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench import Logits, Method, MethodError, StepShape, Window, compiled, register
from tta_bench.heads import loss_gradient, unembedding_of
from tta_bench_methods.head.regression.regressions import regression_of

TUNED_WIDTH = 192
"""Hidden units up to which `step` is taken as it is; wider models take smaller ones."""


@register("regression")
class TestTimeRegression(Method):
    """Test-time regression: a ridge fit from hidden states to errors, solved as it reads."""

    __test__ = False  # no test case, whatever its name begins with
    family = "head"

    @dataclass
    class Params:
        """The three choices of the framework, and what is regressed on what."""

        step: float = field(
            default=40.0, metadata={"help": "size of the correction, for models of any width"}
        )
        ridge: float = field(default=10.0, metadata={"help": "ridge of the exact solver"})
        decay: float = field(default=1.0, metadata={"help": "weight over time, per token"})
        target: Literal["residual", "error", "embedding"] = field(
            default="residual", metadata={"help": "the value that is regressed on a key"}
        )
        function: Literal["linear", "kernel"] = field(
            default="linear", metadata={"help": "function class"}
        )
        solver: Literal["exact", "sgd"] = field(
            default="exact", metadata={"help": "of linear maps: exact, or one step a position"}
        )
        reads: Literal["chunk", "token"] = field(
            default="chunk",
            metadata={"help": "what is read: past chunks, or also the tokens before in its own"},
        )
        rate: float = field(default=0.5, metadata={"help": "step size of solver=sgd"})
        theta: float = field(default=20.0, metadata={"help": "sharpness of function=kernel"})
        window: int = field(default=2048, metadata={"help": "pairs of function=kernel"})

        def __post_init__(self) -> None:
            if self.ridge <= 0:
                raise ValueError("ridge must be above 0.")
            if not 0 < self.decay <= 1:
                raise ValueError("decay must be above 0 and at most 1.")
            if not 0 < self.rate <= 1:
                raise ValueError("rate must be above 0 and at most 1.")
            if self.window < 1:
                raise ValueError("window must be at least 1.")
            if self.function == "kernel" and self.solver == "sgd":
                raise ValueError("function=kernel has a closed form: leave solver out.")
            if self.function == "kernel" and self.decay < 1:
                raise ValueError("function=kernel weighs by its window: leave decay out.")

    def prepare(self) -> None:
        self.model.require_split()
        self.unembedding = unembedding_of(self.model)
        weight = self.model.net.get_output_embeddings().weight.detach().float()
        width = max(1.0, self.model.hidden_size / TUNED_WIDTH)
        self.scale = self.params.step / width / weight.square().sum(1).mean()
        self.centre = weight.mean(0)
        self.regression = regression_of(self.params, self.model.hidden_size)
        # Each position's own solve calls a library that may not stand in a CUDA graph.
        self.graphs = self.params.reads == "chunk" or self.params.decay == 1  # type: ignore[misc]
        self._expectation = expectation

    def compile(self) -> None:
        self._expectation = compiled(expectation)

    def init_state(self) -> dict[str, Tensor]:
        device = self.model.device
        return {name: value.to(device) for name, value in self.regression.fresh().items()}

    def score(self, window: Window) -> Logits:
        below = self.below.score(window)
        if below.hidden is None or below.unembed is None:
            raise MethodError(
                "regression is a head: it reads hidden states, and what stands below it gives "
                "probabilities alone; put it below."
            )
        if self.params.step == 0:
            return Logits(below.hidden, below.unembed, self.model.vocab_size)
        hidden = below.hidden.detach().float()
        keys = F.normalize(hidden, dim=-1) * window.mask[..., None]
        known = self.regression.read(keys, self.state)  # [B, C, d], from past chunks
        correction, values = known, None
        if self.params.reads == "token":
            # The last label of a lane is not known yet; no position of the chunk reads its value.
            labels = F.pad(window.chunk_ids[:, 1:], (0, 1))
            values = self._values(hidden, known, labels)
            correction = known + self.regression.read_in_chunk(keys, values, known, self.state)
        moved = hidden + self.scale * correction
        self._memo = keys, hidden, known, values
        moved = moved.to(self.model.dtype)
        self._scores = _Watched(moved, below.unembed, self.model.vocab_size, self._expects)
        return self._scores

    @property
    def _expects(self) -> Callable[[Tensor], Tensor] | None:
        """E^T softmax(logits), where it is wanted along with the logits of a prediction."""
        matrix = self.unembedding
        watched = self.params.target == "residual" and self.params.reads == "chunk"
        if not watched or not isinstance(matrix, Tensor):
            return None
        return lambda rows: self._expectation(rows, matrix)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.step == 0:
            return
        keys, hidden, known, values = self._memo
        scores = self._scores
        del self._memo, self._scores
        if scores.expected is not None:
            matrix = self.model.net.get_output_embeddings().weight
            own = F.embedding(targets, matrix).float()
            values = known + own - scores.expected
        elif values is None:
            values = self._values(hidden, known, targets)
        else:  # all but the last of each lane are known since it was scored
            last = (window.scored[:, None] - 1).clamp_min(0)
            final = _at(hidden, last), _at(known, last), targets.gather(1, last)
            index = last[..., None].expand(-1, -1, values.shape[2])
            values = values.scatter(1, index, self._values(*final))
        self.regression.write(keys, values, window.scored, self.state)

    def _values(self, hidden: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """The values of these labels, [B, T, d], where `known` is what past chunks say."""
        if self.params.target == "embedding":
            matrix = self.model.net.get_output_embeddings().weight
            return F.embedding(labels, matrix).float() - self.centre
        residual = self.params.target == "residual"
        point = hidden + self.scale * known if residual else hidden
        ones = torch.ones_like(labels, dtype=point.dtype)
        error = -loss_gradient(point, labels, ones, self.unembedding)
        return error + known if residual else error

    def flops(self, shape: StepShape) -> float | None:
        if self.params.step == 0:
            return self.below.flops(shape)
        own = self.regression.flops(shape.scored, self.params.reads == "token")
        return self.below.flops(shape, own + self._flops_of_values(shape.scored))

    def invisible_flops(self, shape: StepShape) -> float:
        own = 0.0
        if self.params.step:
            own = self.regression.invisible_flops(shape.scored, self.params.reads == "token")
        return self.below.invisible_flops(shape) + own

    def _flops_of_values(self, scored: int) -> float:
        once = self.cost.unembed(1)
        if self.params.target == "embedding":
            return 0.0
        if self._expects is not None:
            return once * scored
        # Logits and their gradient; of `reads=token` once more at the last position.
        return 2 * once * (scored + (self.params.reads == "token"))


class _Watched(Logits):
    """Logits that also give E^T softmax(logits) of the rows that were asked for.

    Attributes:
        expected: [B, C, d] float32; None where it is not wanted, or where no row was asked for.
    """

    def __init__(
        self,
        hidden: Tensor,
        unembed: Callable[[Tensor], Tensor],
        vocab_size: int,
        expects: Callable[[Tensor], Tensor] | None,
    ):
        super().__init__(hidden, unembed, vocab_size)
        self.expected: Tensor | None = None
        self._expects = expects

    def rows(self, start: int, stop: int) -> Tensor:
        rows = super().rows(start, stop)
        if self._expects is not None:
            if self.expected is None:
                self.expected = torch.zeros_like(self.hidden, dtype=torch.float32)
            self.expected[:, start:stop] = self._expects(rows.detach())
        return rows


def expectation(logits: Tensor, matrix: Tensor) -> Tensor:
    """The mean embedding under each prediction, [B, n, d] float32, of logits [B, n, V]."""
    return (logits.float().softmax(-1).to(matrix.dtype) @ matrix).float()


def _at(values: Tensor, places: Tensor) -> Tensor:
    """[B, 1, d]: one position of each lane."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))

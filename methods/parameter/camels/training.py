"""What is trained: the weigher, for the losses of the tokens after each step that it shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tta_bench import LanguageModel, Logits, Scores, UsageError, Window, token_nll
from tta_bench.heads import BodyModule, SlowOptions, State, Unembedding
from tta_bench_methods.parameter.camels.update import descended
from tta_bench_methods.parameter.camels.weigher import Weigher, token_features
from tta_bench_methods.parameter.dynamic_eval.subsets import subset_names
from tta_bench_methods.parameter.dynamic_eval.token_weights import with_mean_one


@dataclass
class WeigherOptions(SlowOptions):
    """The net, and the steps it is trained through."""

    width: int = field(default=128, metadata={"help": "hidden units of the net"})
    normalise: bool = field(
        default=True, metadata={"help": "weights of a chunk have mean one; no: as in the paper"}
    )
    lr: float = field(default=3e-3, metadata={"help": "step size of the sgd it is trained through"})
    subset: str = field(
        default="all", metadata={"help": "weights that are adapted, as in dynamic-eval"}
    )

    def __post_init__(self) -> None:
        if not self.fast:
            raise ValueError(
                "without its steps camels is none: compare it with camels:tokens=shuffled and "
                "with dynamic-eval."
            )
        if self.width < 1:
            raise ValueError("width must be at least 1.")
        if not self.lr > 0:
            raise ValueError("lr must be above 0: training goes through the steps.")


class WeightedSteps(BodyModule):
    """SGD on each window's weighted loss; the state of a lane is its weights of the model.

    `read` gives distributions, since the unembedding may be among what is adapted. Losses and
    states that the net reads are constants: gradients reach it through the steps alone.
    """

    second_order = True

    def __init__(self, model: LanguageModel, options: WeigherOptions):
        super().__init__()
        self.options = options
        if options.subset == "lora":
            raise UsageError("camels adapts weights of the model: choose another subset than lora.")
        self.names = subset_names(model, options.subset)
        self._model = (model,)  # of which nothing belongs to this module
        self.weigher = Weigher(model.hidden_size + self._embeddings.shape[1] + 1, options.width)

    @property
    def _embeddings(self) -> Tensor:
        """[V, e], as pretrained: what a token is should not change under the net."""
        weight = self._model[0].net.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def fresh_state(self, lanes: int) -> State:
        model = self._model[0]
        start = {name: model.parameter(name).float() for name in self.names}
        return {name: value.expand(lanes, *value.shape) for name, value in start.items()}

    def token_weights(self, hidden: Tensor, labels: Tensor, nll: Tensor, window: Window) -> Tensor:
        """How much the tokens of a chunk count, [B, C]; 0 at padding.

        Args:
            hidden: [B, C, d], the states that predicted them.
            labels: [B, C], the tokens.
            nll: [B, C], their losses.
            window: what was read.
        """
        embedded = self._embeddings[labels]
        weights = self.weigher(token_features(hidden.detach(), embedded, nll.detach()))
        if not self.options.normalise:
            return weights * window.mask
        return with_mean_one(weights, window.mask, window.scored)

    def read(
        self, model: LanguageModel, window: Window, state: State
    ) -> tuple[Scores, tuple[State, Logits]]:
        leaves = {
            name: value if value.requires_grad else value.detach().requires_grad_()
            for name, value in state.items()
        }
        # Other kernels of attention cannot be differentiated twice; and the gradients of gradients
        # want more digits than mixed precision leaves.
        exact = torch.autocast(model.device.type, enabled=False)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), exact:
            read = {name: value.to(model.dtype) for name, value in leaves.items()}
            scores = model.logits(window, read)
        assert isinstance(scores, Logits)
        return scores, (leaves, scores)

    def write(
        self,
        memo: tuple[State, Logits],
        window: Window,
        labels: Tensor,
        unembedding: Unembedding,
        state: State,
    ) -> State:
        leaves, scores = memo
        exact = torch.autocast(labels.device.type, enabled=False)
        with torch.enable_grad(), exact:
            nll = token_nll(scores, lambda: labels, window.mask, gradients=True)
            weights = self.token_weights(scores.hidden, labels, nll, window)
            means = (weights * nll).sum(1) / window.scored.clamp_min(1)
            return descended(leaves, means.sum(), self.options.lr)

"""Slow weights that act inside the body: what such a module gives, and its method.

A `BodyModule` reads windows through the body and learns from them chunk by chunk: it reads with the
state it is given, then, once the chunk is scored, says what the state becomes. Training calls the
same two functions window after window and backpropagates through them.

Most such modules correct what a few submodules of the net give (a down projection, o_proj, a
query): `BodyPatches`, which put a `Patch` on each. A module that reads in another way, such as one
that replaces weights by those of a gradient step, defines `read` and `write` itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_bench.contract.needs import Needs
from tta_bench.errors import MethodError
from tta_bench.heads.head import State, outputs_and_state, replace
from tta_bench.heads.inner_loss import Unembedding, unembedding_of
from tta_bench.heads.trained import TrainedMethod
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.scores import Logits, Scores
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window


class BodyModule(nn.Module):
    """Base class of what is trained inside the body. Its parameters are the slow weights.

    What it learns while it reads is the state, which it is given and returns. Every lane is
    computed by itself.
    """

    second_order: bool = False
    """True: `write` differentiates through the body, so that training takes gradients of gradients.
    Compiled blocks have none; it must also read with kernels that have them."""

    def attach(self, model: LanguageModel) -> LanguageModel:
        """The model as `read` is given it; called once. The one given must stay as it is."""
        return model

    def fresh_state(self, lanes: int) -> State:
        """The state of lanes that have read nothing: tensors [lanes, ...] by name.

        It may be made of parameters: training goes through it.
        """
        raise MethodError(f"{type(self).__name__} does not define fresh_state(lanes).")

    def read(
        self, model: LanguageModel, window: Window, state: State
    ) -> tuple[Tensor | Scores, Any]:
        """Hidden states [B, C, d] at the scored positions, and whatever `write` needs.

        Where more is trained than hidden states under the model's own unembedding (an unembedding
        that is adapted, probabilities that are mixed) it gives `Scores`.

        Args:
            model: what `attach` returned.
            window: what is read; C of its positions are scored and have not been written before.
            state: what each lane has written before; it must stay as it is.
        """
        raise MethodError(f"{type(self).__name__} does not define read.")

    def write(
        self, memo: Any, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> State:
        """The state after the window, with the names, shapes and dtypes of the one given.

        Args:
            memo: what `read` returned.
            window: what was read.
            labels: [B, C] int64, the token after each scored position; 0 at padding.
            unembedding: E [V, d], or a function [..., d] -> [..., V]; see `loss_gradient`.
            state: as `read` was given it. Lanes that score nothing keep theirs.
        """
        raise MethodError(f"{type(self).__name__} does not define write.")

    def flops(self, shape: StepShape) -> float | None:
        """FLOPs of one lane's step beside those of the model; None: not known."""
        return None


class Patch(nn.Module):
    """The correction of one submodule's output, with a state of its own."""

    def fresh_state(self, lanes: int) -> State:
        """As in `BodyModule`."""
        raise MethodError(f"{type(self).__name__} does not define fresh_state(lanes).")

    def forward(
        self, inputs: Tensor, output: Tensor, mask: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """The corrected output [B, L, out], and the state after the window.

        Causal: what is read at t depends on positions up to t.

        Args:
            inputs: [B, L, in], what the submodule was given.
            output: [B, L, out], what it gave.
            mask: [B, L] bool, True at the scored positions, the only ones that are written:
                those before them were written with their own chunk.
            state: of this patch.
        """
        raise MethodError(f"{type(self).__name__} does not define forward.")


class BodyPatches(BodyModule):
    """Patches of named submodules, which learn from inputs alone.

    Args:
        patches: by the submodules' names in the net, such as `model.layers.3.mlp.down_proj`; see
            `module_path`.
    """

    def __init__(self, patches: Mapping[str, Patch]):
        super().__init__()
        self.paths = tuple(patches)
        # Of `Patch`; the types of nn.Module hide what it has beside forward.
        self.patches: Any = nn.ModuleList(patches.values())
        self._mask: Tensor | None = None  # of the window that is being read; None: patches rest
        self._before: list[State] = []
        self._after: State = {}

    def attach(self, model: LanguageModel) -> LanguageModel:
        """A model on modules of its own, which share the other's tensors; some have a patch."""
        net = model.net
        shared = {id(value): value for value in (*net.parameters(), *net.buffers())}
        own = LanguageModel(
            copy.deepcopy(net, shared),
            model.tokenizer,
            model.name,
            model.provenance,
            random_weights=model.random_weights,
            acceptance=model.acceptance,
        )
        for number, path in enumerate(self.paths):
            # Not a hook: a block that is compiled takes the graph of one that has none.
            module = own.net.get_submodule(path)
            module.forward = partial(self._corrected, number, module.forward)
        return own

    def fresh_state(self, lanes: int) -> State:
        """Those of all patches, named by their numbers: `0.name`."""
        return {
            f"{number}.{name}": value
            for number, patch in enumerate(self.patches)
            for name, value in patch.fresh_state(lanes).items()
        }

    def read(self, model: LanguageModel, window: Window, state: State) -> tuple[Tensor, State]:
        after: State = {}
        self._mask = _scored_inputs(window)
        self._before, self._after = [{} for _ in self.paths], after
        for key, value in state.items():
            number, _, name = key.partition(".")
            self._before[int(number)][name] = value
        try:
            return model.hidden(window), after
        finally:
            self._mask, self._before, self._after = None, [], {}

    def write(
        self, memo: State, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> State:
        return memo

    @torch.compiler.disable
    def _corrected(
        self, number: int, forward: Callable[[Tensor], Tensor], inputs: Tensor
    ) -> Tensor:
        output = forward(inputs)
        if self._mask is None:
            return output
        patch = self.patches[number]
        returned = patch(inputs, output, self._mask, self._before[number])
        corrected, after = outputs_and_state(patch, returned)
        self._after |= {f"{number}.{name}": value for name, value in after.items()}
        return corrected


class TrainedBody(TrainedMethod):
    """A trained body module. A subclass defines `slow_weights(model, slow)`, which returns one."""

    family: ClassVar[str] = "parameter"
    learns_from_losses: ClassVar[bool] = False
    module: BodyModule

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        return Needs(hidden=True)

    def use(self, module: BodyModule) -> None:
        """Takes the module into service: float32 at least, on the model's device, no gradients."""
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.module = module.to(self.model.device, dtype).requires_grad_(False)
        self.model = self.module.attach(self.model)
        self.unembedding = unembedding_of(self.model)
        self._memo: Any = None

    def init_state(self) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.module.fresh_state(1).items()}

    def score(self, window: Window) -> Scores:
        window = self.below.provide(window)
        found, self._memo = self.module.read(self.model, window, self.state)
        if isinstance(found, Scores):
            return found
        return Logits(found, self.model.unembed, self.model.vocab_size)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        memo, self._memo = self._memo, None  # a chunk's memory must not lie beside the next one's
        after = self.module.write(memo, window, targets, self.unembedding, self.state)
        replace(self.state, after)

    def flops(self, shape: StepShape) -> float | None:
        read = self.below.provided(shape)
        own = self.module.flops(read)
        return None if own is None else self.cost.forward(read) + own + self.below.beside(shape)


def module_path(model: LanguageModel, module: nn.Module) -> str:
    """The name of one of the net's modules, as `BodyPatches` takes it; families differ in names."""
    return next(path for path, found in model.net.named_modules() if found is module)


def _scored_inputs(window: Window) -> Tensor:
    """[B, L] bool, True at the inputs that predict a token of the chunk."""
    places = torch.arange(window.input_ids.shape[1], device=window.input_ids.device)
    first = window.lengths - window.scored
    return (places >= first[:, None]) & (places < window.lengths[:, None])

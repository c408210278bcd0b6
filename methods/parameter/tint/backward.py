"""A backward pass as the transformer in the transformer makes it, by hooks on the model's modules.

Attention probabilities are held: gradients pass through values alone. The Jacobians of norms and
activations are differences,

    J^T g = N (f(x + g / N) - f(x)),   N = 1000

with f a norm without gain and bias and g already times the gain, or f the activation itself. (The
Jacobians of both are symmetric, so that a step along g is their product with g.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench import LanguageModel, UsageError
from tta_bench_methods.parameter.tint.tensors import is_norm

SHARPNESS = 1000.0
"""N, the authors' `scale_embeddings`."""


@contextmanager
def held_attention(model: LanguageModel) -> Iterator[None]:
    """Lets gradients pass through the values of attention alone, in this block."""
    with _hooks() as hooks:
        for layer in model.layers:
            for name, module in layer.named_modules():
                kind = name.rpartition(".")[2]
                if kind in ("q_proj", "k_proj"):
                    hooks.append(module.register_forward_hook(_detached))
                elif kind == "c_attn":
                    hooks.append(module.register_forward_hook(_values_alone))
        yield


@contextmanager
def differences(model: LanguageModel) -> Iterator[None]:
    """Replaces the Jacobians of norms and activations by differences, in this block.

    Raises:
        UsageError: the model has a norm or an activation of another form.
    """
    with _hooks() as hooks:
        for name, module in model.net.named_modules():
            if is_norm(module):
                hooks += _replaced(module, *_parts(model, name, module))
            elif name.rpartition(".")[2] in ("act", "act_fn", "activation_fn"):
                hooks += _replaced(module, module.forward, None)
        yield


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    # Compiled blocks would go on without hooks that they were not compiled with.
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        hooks: list[Any] = []
        stack.callback(lambda: [hook.remove() for hook in hooks])
        yield hooks


def _detached(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _values_alone(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Queries, keys and values beside each other, in thirds."""
    width = output.shape[-1] // 3
    return torch.cat([output[..., : 2 * width].detach(), output[..., 2 * width :]], dim=-1)


def _replaced(
    module: nn.Module, function: Callable[[Tensor], Tensor], gain: Tensor | None
) -> list[Any]:
    """Hooks that cut the module's input off its graph and pass gradients by a difference."""
    given: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given.append(args[0])
        return (args[0].detach(), *args[1:])

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _Difference.apply(given.pop(), output, function, gain)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


class _Difference(torch.autograd.Function):
    """The output as it is; its gradient goes to the bias as it is, and to the input as said."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor,
        function: Callable[[Tensor], Tensor],
        gain: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function, ctx.gain = function, gain
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, gradient, None, None
        (x,) = ctx.saved_tensors
        # In float64: a difference of near values has few digits left in float32.
        point, step = x.double(), gradient.double()
        if ctx.gain is not None:
            step = step * ctx.gain.double()
        moved = ctx.function(point + step / SHARPNESS) - ctx.function(point)
        return (SHARPNESS * moved).to(x.dtype), gradient, None, None


def _parts(
    model: LanguageModel, name: str, module: nn.Module
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The norm without gain and bias, and its gain; they must give what the module gives.

    Gemma's weights are the gains less one.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", 0.0))

    def centred(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=eps)

    def scaled(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()

    function = centred if isinstance(module, nn.LayerNorm) else scaled
    if isinstance(weight, Tensor):
        probe = torch.linspace(-1, 2, len(weight), device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            found = module.forward(probe[None, None])[0, 0]
            for gain in (weight, 1 + weight):
                expected = function(probe) * gain + (0 if bias is None else bias)
                if torch.allclose(found, expected, rtol=1e-2, atol=1e-3):
                    return function, gain
    raise UsageError(
        f"gradient=tint knows norms x / |x| with a gain, and {name} of {model.name} "
        f"({type(module).__name__}) is another; use gradient=exact."
    )

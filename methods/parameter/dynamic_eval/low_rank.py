"""Low-rank adapters beside the model's linear modules, and a start for them that has read text."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tta_bench import (
    LanguageModel,
    Scores,
    StepShape,
    UsageError,
    Window,
    load_documents,
    token_nll,
)
from tta_bench_methods.parameter.dynamic_eval.step import Adapted, Update, change_one, step

WARM_CHUNK = 256


class LowRankAdapters:
    """LoRA (Hu et al. 2022): y + B A x on chosen linear modules, A random, B zero, scale 1.

    The modules' own weights stay shared between lanes; `LanguageModel.logits` adds the product.
    """

    def __init__(self, model: LanguageModel, rank: int, targets: tuple[str, ...]):
        self.model = model
        self.rank = rank
        self.modules: dict[str, tuple[nn.Module, int, int]] = {}
        for name, module in model.net.named_modules():
            weight = getattr(module, "weight", None)
            wanted = any(target in name for target in targets)
            if wanted and isinstance(weight, Tensor) and weight.dim() == 2 and _is_linear(module):
                # transformers' Conv1D keeps [in, out], nn.Linear [out, in]
                shape = weight.shape if type(module).__name__ == "Conv1D" else weight.shape[::-1]
                self.modules[name] = (module, int(shape[0]), int(shape[1]))
        if not self.modules:
            raise UsageError(
                f"no linear module of {model.name} has {' or '.join(targets)} in its name; "
                "choose targets from its parameter names."
            )

    def initial(self) -> dict[str, Tensor]:
        """Fresh adapters; seeded, so that every lane and every run starts alike."""
        generator = torch.Generator().manual_seed(0)
        device = self.model.device
        start = {}
        for name, (_, inputs, outputs) in self.modules.items():
            down = torch.randn(self.rank, inputs, generator=generator) * inputs**-0.5
            start[f"{name}.lora_A"] = down.to(device)
            start[f"{name}.lora_B"] = torch.zeros(outputs, self.rank, device=device)
        return start


def _is_linear(module: nn.Module) -> bool:
    # Not what is derived from them: its forward pass may be another.
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def warm_shape() -> StepShape:
    """The shape of each step of `warmed`."""
    return StepShape(WARM_CHUNK, WARM_CHUNK, 0)


@torch.enable_grad()
def warmed(
    adapters: LowRankAdapters, update: Update, dataset: str, chunks: int
) -> dict[str, Tensor]:
    """Adapters whose A has followed the rule over chunks of other text, and whose B is zero.

    B and the rule's own tensors start anew at each document, A goes on: what remains of A is what
    served many documents.

    Args:
        adapters: which modules.
        update: the rule, as in the stream.
        dataset: other text than the stream.
        chunks: number of whole chunks of `WARM_CHUNK` tokens to read.

    Raises:
        UsageError: the dataset is too short.
    """
    model = adapters.model
    parameters = {
        name: Adapted(
            weight=value[None].clone(),
            read=value[None].to(model.dtype).clone(),
            slots=[torch.zeros_like(value[None]) for _ in update.rule.slots],
            waiting=None,
            start=value,
            statistics=None,
        )
        for name, value in adapters.initial().items()
    }
    steps = torch.zeros(1, dtype=torch.int64, device=model.device)
    count = torch.tensor([WARM_CHUNK], device=model.device)
    for ids, opens in _chunks(model, dataset, chunks):
        if opens:
            _forget(parameters)
            steps.zero_()
        leaves = {name: p.read.detach().requires_grad_() for name, p in parameters.items()}
        window = Window(ids[None, :-1], count, count, WARM_CHUNK)
        losses = _losses(model.logits(window, leaves), ids[None, 1:], window.mask)
        gradients = torch.autograd.grad(losses.mean(), list(leaves.values()))
        step(update, list(parameters.values()), list(gradients), count, count, steps, change_one)
    _forget(parameters)
    return {name: parameter.weight[0] for name, parameter in parameters.items()}


def _losses(scores: Scores, targets: Tensor, mask: Tensor) -> Tensor:
    return token_nll(scores, lambda: targets, mask, gradients=True)


def _forget(parameters: dict[str, Adapted]) -> None:
    """Clears all but A."""
    for name, parameter in parameters.items():
        own = [*parameter.slots]
        if name.endswith("lora_B"):
            own += [parameter.weight, parameter.read]
        for value in own:
            value.zero_()


def _chunks(model: LanguageModel, dataset: str, wanted: int) -> Iterator[tuple[Tensor, bool]]:
    """Chunks with the token after each, and whether one is its document's first."""
    assert model.tokenizer is not None
    done = 0
    for document in load_documents(dataset):
        ids = model.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        for first in range(0, len(ids) - WARM_CHUNK, WARM_CHUNK):
            yield torch.tensor(ids[first : first + WARM_CHUNK + 1], device=model.device), first == 0
            done += 1
            if done == wanted:
                return
    raise UsageError(
        f"warm={dataset} has {done} whole chunks of {WARM_CHUNK} tokens, fewer than "
        f"warm_chunks={wanted}; give more text or lower warm_chunks."
    )

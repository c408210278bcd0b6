"""`LanguageModel`: a causal LM as methods see it, a body h = f(x) and an unembedding E h."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tta_bench.errors import ModelError
from tta_bench.model.split import Split, check_split
from tta_bench.scores import Logits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tta_bench.cost.model_flops import ModelCost
    from tta_bench.model.cache import LaneCache
    from tta_bench.window import Window


class LanguageModel:
    """A frozen causal language model of transformers.

    `weights` in every call replaces parameters by name (the names of `net.named_parameters()`),
    without touching the shared ones: this is how a lane reads with fast weights of its own.

    Attributes:
        net: the transformers model, in `eval()`, no parameter requiring a gradient.
        tokenizer: its tokenizer.
        name: how the user named it.
        provenance: what the manifest records of its source (hashes, revision).
        random_weights: True if it was never trained; such rows are never ranked.
    """

    def __init__(
        self,
        net: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str,
        provenance: Mapping[str, Any] | None = None,
        random_weights: bool = False,
    ):
        net.eval()
        net.requires_grad_(False)
        self.net = net
        self.tokenizer = tokenizer
        self.name = name
        self.provenance = dict(provenance or {})
        self.random_weights = random_weights
        self._split = Split(net)
        self.split_error = check_split(self._split, self.device)

    @property
    def config(self) -> Any:
        """The text model's configuration."""
        return self.net.config.get_text_config()

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits (padding rows of the embedding included)."""
        return int(self.net.get_output_embeddings().weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """d, the width of the hidden state that the unembedding reads."""
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def max_positions(self) -> int | None:
        """Tokens the model was built to read at once; None if it does not say."""
        value = getattr(self.config, "max_position_embeddings", None)
        return None if value is None else int(value)

    @cached_property
    def rotary(self) -> bool:
        """True if positions are relative (rotary), so that a stream may run past max_positions."""
        return any("Rotary" in type(module).__name__ for module in self.net.modules())

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        body = self._split.body
        for module in body.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.num_layers:
                return module
        raise ModelError(f"the blocks of {self.name} ({type(self.net).__name__}) were not found.")

    @cached_property
    def cost(self) -> ModelCost:
        """FLOP formulas of this model."""
        from tta_bench.cost.model_flops import ModelCost

        return ModelCost(self)

    def require_split(self) -> None:
        """Raises ModelError if the model cannot be split into body and unembedding."""
        if self.split_error:
            raise ModelError(
                f"{self.name} cannot be split into body and unembedding ({self.split_error}); "
                "methods that read hidden states (head and output families) do not run on it, "
                "none and dynamic-eval do."
            )

    def parameter(self, name: str) -> Tensor:
        """A shared parameter by its name."""
        return self.net.get_parameter(name)

    @cached_property
    def unembedding(self) -> Tensor | None:
        """E [V, d], where the logits are E h and nothing else; None where they are more."""
        head = self.net.get_output_embeddings()
        plain = self._split.scale == 1.0 and self._split.soft_cap is None
        if self.split_error or not plain or getattr(head, "bias", None) is not None:
            return None
        return head.weight

    def with_weights(self, weights: Mapping[str, Tensor]) -> LanguageModel:
        """A model of its own in which these parameters stand in for the shared ones.

        Args:
            weights: by the names of `net.named_parameters()`; they are copied, in this model's
                dtype.
        """
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, value in weights.items():
                net.get_parameter(name).copy_(value)
        return LanguageModel(
            net, self.tokenizer, self.name, self.provenance, random_weights=self.random_weights
        )

    def body(self, input_ids: Tensor) -> Tensor:
        """[B, L, d] of ids [B, L]: whole windows without padding, as in training."""
        self.require_split()
        return self._split("hidden", input_ids, use_cache=False)[0]

    def hidden(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """[B, C, d]: the body's output, after the final norm, at the scored positions."""
        self.require_split()
        return window.chunk(self._body(window, weights))

    def unembed(self, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits of hidden states, [..., d] -> [..., V], soft-capping and scaling included."""
        self.require_split()
        return self._call("unembed", hidden, weights=weights)

    def logits(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Logits:
        """The model's own distributions for the chunk, computed slice by slice."""
        if self.split_error:
            whole = window.chunk(self._body(window, weights, "logits"))
            return Logits(whole, lambda rows: rows, self.vocab_size)
        return Logits(
            self.hidden(window, weights),
            lambda rows: self._call("unembed", rows, weights=weights),
            self.vocab_size,
        )

    def _body(
        self, window: Window, weights: Mapping[str, Tensor] | None, what: str = "hidden"
    ) -> Tensor:
        ids = window.input_ids
        if window.past is None:
            return self._call(what, ids, weights=weights, use_cache=False)[0]
        past = window.past
        output, cache = self._call(
            what,
            ids,
            weights=weights,
            use_cache=True,
            past_key_values=past.to_transformers(),
            attention_mask=self._cache_mask(past, ids.shape[1]),
            position_ids=past.position_ids(ids.shape[1], window.lengths),
        )
        past.stage(cache)
        return output

    def _cache_mask(self, past: LaneCache, width: int) -> Tensor | dict[str, Tensor]:
        reach = getattr(self.config, "sliding_window", None)
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if "sliding_attention" in kinds:  # such models take one mask a kind of layer
            return {
                "full_attention": past.attention_mask(width, self.dtype),
                "sliding_attention": past.attention_mask(width, self.dtype, reach),
            }
        return past.attention_mask(width, self.dtype)

    def _call(
        self, what: str, *args: Any, weights: Mapping[str, Tensor] | None, **kwargs: Any
    ) -> Any:
        if not weights:
            return self._split(what, *args, **kwargs)
        replaced = {f"net.{name}": value for name, value in weights.items()}
        return functional_call(self._split, replaced, (what, *args), kwargs)

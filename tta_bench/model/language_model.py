"""`LanguageModel`: a causal LM as methods see it, with a body h = f(x) and an unembedding E h."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tta_bench.errors import ModelError
from tta_bench.model.attention import use_causal_attention
from tta_bench.model.compilation import compile_blocks, run_split
from tta_bench.model.lane_weights import ADAPTERS, LaneWeights, ranks_of_norms
from tta_bench.model.scores import DenseLogits, Logits, Scores
from tta_bench.model.split import Split, check_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tta_bench.model.cache import LaneCache
    from tta_bench.model.window import Window


class LanguageModel:
    """A frozen causal language model of transformers.

    The argument `weights` of every call replaces parameters by name (as in
    `net.named_parameters()`) without changing the shared ones, so that lanes can have fast weights
    of their own. Either all values have the shape of their parameters and serve all lanes, or all
    have the shape [B, ...] with one set of values per lane. For a linear module NAME,
    `NAME.lora_A` [B, r, in] and `NAME.lora_B` [B, out, r] add x A^T B^T to its output.

    Attributes:
        net: the transformers model, in eval mode; no parameter requires a gradient.
        tokenizer: the tokenizer; None for models that only read token ids.
        name: the model as the user named it.
        provenance: what the manifest records about the model's source: hashes, revision.
        random_weights: whether the model was never trained; its rows are not ranked.
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
        self._compiled = False
        self.split_error = check_split(self._split, self.device)
        self._norm_ranks = ranks_of_norms(net)

    @property
    def compiled(self) -> bool:
        """Whether the blocks are compiled with `torch.compile`."""
        return self._compiled

    @compiled.setter
    def compiled(self, wanted: bool) -> None:
        if wanted == self._compiled:
            return
        if wanted:
            use_causal_attention(self.net)
        compile_blocks(self.layers, wanted)
        self._compiled = wanted

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
        """Number of positions that the model was built for; None if its configuration has none."""
        value = getattr(self.config, "max_position_embeddings", None)
        return None if value is None else int(value)

    @cached_property
    def rotary(self) -> bool:
        """Whether positions are rotary, so that a stream may be longer than `max_positions`."""
        return any("Rotary" in type(module).__name__ for module in self.net.modules())

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        body = self._split.body
        for module in body.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.num_layers:
                return module
        raise ModelError(
            f"the transformer blocks of {self.name} ({type(self.net).__name__}) were not found."
        )

    def require_split(self) -> None:
        """Raises ModelError if the model cannot be split into body and unembedding."""
        if self.split_error:
            raise ModelError(
                f"{self.name} cannot be split into body and unembedding ({self.split_error}); "
                "methods that read hidden states (head and output families) do not run on it, "
                "but none and dynamic-eval do."
            )

    def parameter(self, name: str) -> Tensor:
        """The shared parameter of that name."""
        return self.net.get_parameter(name)

    @cached_property
    def unembedding(self) -> Tensor | None:
        """E [V, d] if the logits are exactly E h; None if they have a bias, scale or soft cap."""
        head = self.net.get_output_embeddings()
        plain = self._split.scale == 1.0 and self._split.soft_cap is None
        if self.split_error or not plain or getattr(head, "bias", None) is not None:
            return None
        return head.weight

    def with_weights(self, weights: Mapping[str, Tensor]) -> LanguageModel:
        """A copy of the model with some parameters replaced.

        Args:
            weights: new values by the names of `net.named_parameters()`; they are copied and
                converted to this model's dtype.
        """
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, value in weights.items():
                net.get_parameter(name).copy_(value)
        return LanguageModel(
            net, self.tokenizer, self.name, self.provenance, random_weights=self.random_weights
        )

    def body(self, input_ids: Tensor) -> Tensor:
        """Hidden states [B, L, d] of ids [B, L]: whole windows without padding, as in training."""
        self.require_split()
        return self._split("hidden", input_ids, use_cache=False)[0]

    def hidden(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Hidden states [B, C, d] after the final norm, at the scored positions."""
        self.require_split()
        return window.chunk(self._body(window, weights))

    def unembed(self, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits [..., V] of hidden states [..., d], including scale and soft cap.

        With weights per lane, hidden states are [B, n, d].
        """
        self.require_split()
        return self._unembed(hidden, self._of_head(weights))

    def logits(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Scores:
        """The model's own distributions for the chunk, computed slice by slice.

        A model that cannot be split gives them whole, without hidden states.
        """
        if self.split_error:
            return DenseLogits(window.chunk(self._body(window, weights, "logits")))
        own = self._of_head(weights)
        return Logits(
            self.hidden(window, weights), lambda rows: self._unembed(rows, own), self.vocab_size
        )

    def one_by_one(self, names: Iterable[str]) -> str | None:
        """Why lanes with their own values of these parameters must be read one by one.

        Reading them one by one gives the same numbers and takes longer. None if all lanes can be
        read at once.
        """
        unknown = self._lane_weights.unknown(names)
        return None if unknown is None else f"{unknown} has no batched form for several lanes"

    @cached_property
    def _lane_weights(self) -> LaneWeights:
        return LaneWeights(self.net, self._norm_ranks)

    @cached_property
    def _head_names(self) -> set[str]:
        """Names of the output embedding's parameters (tied ones included) and adapters."""
        head = self.net.get_output_embeddings()
        own = {id(value) for value in head.parameters()}
        paths = [path for path, module in self.net.named_modules() if module is head]
        adapters = {f"{path}.{name}" for path in paths for name in ADAPTERS}
        return adapters | {n for n, value in self.net.named_parameters() if id(value) in own}

    def _of_head(self, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        return (
            {name: weights[name] for name in self._head_names if name in weights} if weights else {}
        )

    def _unembed(self, hidden: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        if self._must_loop(weights):
            return torch.cat(
                [
                    self._unembed(hidden[lane : lane + 1], _one_lane(weights, lane))
                    for lane in range(len(hidden))
                ]
            )
        return run_split(self._split, self._replaced(weights), "unembed", hidden)

    def _body(
        self, window: Window, weights: Mapping[str, Tensor] | None, what: str = "hidden"
    ) -> Tensor:
        weights = weights or {}
        if self._must_loop(weights):
            return torch.cat(
                [
                    self._body(window.row(lane), _one_lane(weights, lane), what)
                    for lane in range(window.lanes)
                ]
            )
        ids, replaced = window.input_ids, self._replaced(weights)
        if window.past is None:
            return run_split(self._split, replaced, what, ids, use_cache=False)[0]
        past = window.past
        output, cache = run_split(
            self._split,
            replaced,
            what,
            ids,
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
        if "sliding_attention" in kinds:  # such models take one mask per kind of layer
            return {
                "full_attention": past.attention_mask(width, self.dtype),
                "sliding_attention": past.attention_mask(width, self.dtype, reach),
            }
        return past.attention_mask(width, self.dtype)

    def _must_loop(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether lanes must be read one by one: their weights differ and have no batched form."""
        if not weights:
            return False
        own = self._lane_weights
        return (own.lanes(weights) or 1) > 1 and own.unknown(weights) is not None

    def _replaced(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights as the modules of the split take them; those of a single lane are shared."""
        if not weights:
            return {}
        self._lane_weights.check(weights)
        lanes = self._lane_weights.lanes(weights)
        if lanes == 1:
            weights = {name: value.squeeze(0) for name, value in weights.items()}
        elif lanes is not None:
            weights = self._lane_weights.broadcast(weights)
        return {f"net.{name}": value for name, value in weights.items()}


def _one_lane(weights: Mapping[str, Tensor], lane: int) -> dict[str, Tensor]:
    return {name: value[lane : lane + 1] for name, value in weights.items()}

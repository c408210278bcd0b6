"""`LanguageModel`: a causal LM as methods see it, with a body h = f(x) and an unembedding E h."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tta_bench.errors import ModelError
from tta_bench.format import listed
from tta_bench.model.attention import use_causal_attention
from tta_bench.model.compilation import compile_blocks
from tta_bench.model.findings import PADDING, Acceptance
from tta_bench.model.gradients import gradient_error
from tta_bench.model.lane_weights import ADAPTERS, ranks_of_norms
from tta_bench.model.placement import reading_device, spread_over
from tta_bench.model.positions import check_window
from tta_bench.model.quantisation import held_in_few_bits
from tta_bench.model.reader import Reader
from tta_bench.model.rotary import depends_on_width, forget_widths
from tta_bench.model.scores import DenseLogits, Logits, Scores
from tta_bench.model.split import Split, check_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tta_bench.model.window import Window

_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "n_ctx",
)
"""The names that configurations have for the number of positions; the first that is set holds."""


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
        acceptance: what was found when the model was tried; nothing where it was not.
    """

    def __init__(
        self,
        net: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str,
        provenance: Mapping[str, Any] | None = None,
        random_weights: bool = False,
        acceptance: Acceptance | None = None,
    ):
        for config in (net.config, net.config.get_text_config()):
            config.return_dict = True  # a saved configuration may ask for tuples
        net.eval()
        net.requires_grad_(False)
        forget_widths(net)
        self.net = net
        self.tokenizer = tokenizer
        self.name = name
        self.provenance = dict(provenance or {})
        self.random_weights = random_weights
        self.acceptance = acceptance or Acceptance()
        self._split = Split(net)
        self._compiled = False
        self._by_width = depends_on_width(self.config)
        self.split_error = check_split(self._split, self.device)
        ranks, whole = ranks_of_norms(net), self.split_error is not None
        self._reader = Reader(self._split, ranks, whole, self.vocab_size)

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
        """Where windows are read and scores come back, whatever devices hold parts of the model."""
        return reading_device(self.net)

    @property
    def spread_over(self) -> list[str]:
        """The places of a model that has several, such as `cuda:0` or `disk`; else none."""
        return spread_over(self.net)

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits (padding rows of the embedding included)."""
        weight = getattr(self.net.get_output_embeddings(), "weight", None)
        return int(self.config.vocab_size if weight is None else weight.shape[0])

    @property
    def readable_ids(self) -> int:
        """Number of token ids that the model both reads and predicts: 0 to one below it."""
        weight = getattr(self.net.get_input_embeddings(), "weight", None)
        return self.vocab_size if weight is None else min(self.vocab_size, int(weight.shape[0]))

    @property
    def hidden_size(self) -> int:
        """d, the width of the hidden state that the unembedding reads."""
        head = getattr(self.net.get_output_embeddings(), "weight", None)
        return int(self.config.hidden_size if head is None else head.shape[1])

    @property
    def num_layers(self) -> int:
        # In the configuration of an encoder and a decoder, `num_hidden_layers` is the encoder's.
        own = getattr(self.config, "decoder_layers", None)
        return int(self.config.num_hidden_layers if own is None else own)

    @property
    def max_positions(self) -> int | None:
        """Number of positions that the model was built for; None if its configuration has none."""
        values = (getattr(self.config, name, None) for name in _POSITIONS)
        # XLNet has no limit and says so by -1.
        return next((int(value) for value in values if value and value > 0), None)

    @property
    def reads_alone(self) -> bool:
        """Whether lanes are read one after another, without padding and uncompiled.

        They are where the model would read a lane otherwise beside others than alone.
        """
        return self._by_width or self.acceptance.forbids(PADDING) is not None

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
            f"the transformer blocks of {self.name} ({type(self.net).__name__}) were not found; "
            "choose what does not name blocks."
        )

    def require_split(self) -> None:
        """Raises ModelError if the model cannot be split into body and unembedding."""
        if self.split_error:
            raise ModelError(
                f"{self.name} cannot be split into body and unembedding ({self.split_error}); "
                "methods that read hidden states (head and output families) do not run on it, "
                "but none and dynamic-eval do."
            )

    def require_carry(self) -> None:
        """Raises ModelError if the model cannot read on from carried keys and values."""
        problem = self._reader.carry
        if isinstance(problem, str):
            raise ModelError(
                f"{self.name} cannot read on from carried keys and values ({problem}); use "
                "--context-mode recompute."
            )

    @property
    def few_bits(self) -> str | None:
        """How its weights are held where they are rounded and stay so, such as `in 4 bits`."""
        asked = self.provenance.get("load_in")  # known of a model without its weights, too
        return held_in_few_bits(self.net) or (f"in {asked[0]} bits" if asked else None)

    @property
    def fixed(self) -> str | None:
        """Why its weights can be read and not adapted, a clause that goes on from its name.

        None where they are plain floats on one device.
        """
        if self.few_bits is not None:
            return f"holds its weights {self.few_bits}"
        return f"is spread over {listed(self.spread_over)}" if self.spread_over else None

    def require_weights(self) -> None:
        """Raises ModelError if its weights cannot be changed, or differentiated through."""
        if self.fixed:
            raise ModelError(
                f"{self.name} {self.fixed}, so that methods that change its weights or take "
                "gradients through it (the parameter family) do not run on it; those of the "
                "output, head and context families do."
            )

    def require_gradients(self) -> None:
        """Raises ModelError if no gradient can be had while the model is not being trained."""
        problem = gradient_error(self._split)
        if problem is not None:
            raise ModelError(
                f"{self.name} gives no gradients outside of training (its code ends in {problem}); "
                "methods that adapt its weights do not run on it."
            )

    def parameter(self, name: str) -> Tensor:
        """The shared parameter of that name."""
        return self.net.get_parameter(name)

    @cached_property
    def unembedding(self) -> Tensor | None:
        """E [V, d] on `device` if the logits are exactly E h, else None: with a bias, a scale or a
        soft cap, and where E lies on another device.
        """
        head = self.net.get_output_embeddings()
        plain = self._split.scale == 1.0 and self._split.soft_cap is None
        if self.split_error or not plain or getattr(head, "bias", None) is not None:
            return None
        # On another device, or rounded, the matrix is of no use to those who multiply by it.
        usable = head.weight.device == self.device and head.weight.is_floating_point()
        return head.weight if usable else None

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
            net, self.tokenizer, self.name, self.provenance, self.random_weights, self.acceptance
        )

    def body(self, input_ids: Tensor) -> Tensor:
        """Hidden states [B, L, d] of ids [B, L]: whole windows without padding, as in training."""
        self.require_split()
        return self._split("hidden", input_ids, use_cache=False)[0]

    def hidden(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Hidden states [B, C, d] after the final norm, at the scored positions."""
        self.require_split()
        return window.chunk(self._read(window, weights))

    def unembed(self, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits [..., V] of hidden states [..., d], including scale and soft cap.

        With weights per lane, hidden states are [B, n, d].
        """
        self.require_split()
        return self._reader.unembed(hidden, self._of_head(weights))

    def logits(self, window: Window, weights: Mapping[str, Tensor] | None = None) -> Scores:
        """The model's own distributions for the chunk, computed slice by slice.

        A model that cannot be split gives them whole, without hidden states.
        """
        if self.split_error:
            return DenseLogits(window.chunk(self._read(window, weights)))
        own = self._of_head(weights)
        return Logits(
            self.hidden(window, weights),
            lambda rows: self._reader.unembed(rows, own),
            self.vocab_size,
        )

    def one_by_one(self, names: Iterable[str]) -> str | None:
        """Why lanes with their own values of these parameters must be read one by one.

        Reading them one by one gives the same numbers and takes longer. None if all lanes can be
        read at once.
        """
        return self._reader.one_by_one(names)

    def _read(self, window: Window, weights: Mapping[str, Tensor] | None) -> Tensor:
        check_window(self, window)
        if window.past is not None:
            self.require_carry()
        return self._reader.read(window, weights or {}, self.reads_alone)

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

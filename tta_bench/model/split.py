"""The split of a causal LM into body and unembedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Split(nn.Module):
    """The two halves of a transformers model behind one `forward`, for `functional_call`."""

    def __init__(self, net: PreTrainedModel):
        super().__init__()
        self.net = net
        text = net.config.get_text_config()
        self.soft_cap = getattr(text, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        scale = getattr(text, "logit_scale", None) or 1.0
        self.scale = scale / (getattr(text, "logits_scaling", None) or 1.0)

    @property
    def body(self) -> nn.Module:
        """The model without the language-modelling head."""
        return self.net.get_decoder() if hasattr(self.net, "get_decoder") else self.net.base_model

    def forward(self, what: str, *args: Any, **kwargs: Any) -> Any:
        """Runs `hidden` or `logits` on ids, for (output, cache), or `unembed` on hidden states."""
        if what == "unembed":
            return self.unembed(*args)
        if what == "hidden":
            output = self.body(*args, return_dict=True, **kwargs)
            found = output.last_hidden_state
        else:
            output = self.net(*args, return_dict=True, **kwargs)
            found = output.logits
        # The last part of a model that is spread may lie on another device than the first.
        return found.to(args[0].device), getattr(output, "past_key_values", None)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., d]."""
        logits = self.net.get_output_embeddings()(hidden).to(hidden.device)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


@torch.inference_mode()
def check_split(split: Split, device: torch.device) -> str | None:
    """Compares unembed(hidden(x)) with the model's own logits on synthetic tokens.

    The tolerance allows for different kernels in the model's dtype.

    Returns:
        None if they agree, else what is wrong.
    """
    head = split.net.get_output_embeddings()
    if head is None:
        return "it has no output embedding"
    ids = (torch.arange(8, device=device) * 37 % head.weight.shape[0])[None]
    try:
        hidden, _ = split("hidden", ids, use_cache=False)
        ours = split("unembed", hidden).float()
        theirs = split("logits", ids, use_cache=False)[0].float()
        if device.type == "meta" and ours.shape == theirs.shape:
            return None  # there are no values to compare
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return f"its body does not run alone: {type(error).__name__}"
    spread = theirs.std().clamp_min(1e-6)
    tolerance = 1e-4 if split.net.dtype == torch.float32 else 5e-2
    if ours.shape != theirs.shape or not ((ours - theirs).abs().max() / spread < tolerance):
        return "its logits are not a function of the body's output alone"
    return None

"""A model whose weights are rounded to 4 or 8 bits as it is loaded, by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tta_bench.errors import UsageError
from tta_bench.extras import require

if TYPE_CHECKING:
    import torch

    from tta_bench.model.loading import Loading


def check_load_in(loading: Loading, device: torch.device) -> None:
    """Raises UsageError where `--load-in` cannot be done: it takes a GPU and an extra."""
    if loading.load_in is None:
        return
    what = f"--load-in {loading.load_in}"
    if device.type != "cuda":
        raise UsageError(
            f"{what} needs a CUDA GPU, where bitsandbytes computes with such weights; leave it out "
            "here."
        )
    require("bitsandbytes", "accelerate", extra="bitsandbytes", what=what)


def bits_and_bytes(load_in: str, dtype: torch.dtype) -> Any:
    """What `from_pretrained` is told.

    `4bit` is NF4, as in QLoRA, with products in the dtype of the run. `8bit` is LLM.int8() without
    its decomposition of outliers: which features are outliers is decided over all tokens of a
    batch, so that later tokens, and other documents, would change a prediction.

    Args:
        load_in: one of `PRECISIONS`.
        dtype: the dtype of everything that is not rounded.
    """
    from transformers import BitsAndBytesConfig

    if load_in == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def held_in_few_bits(net: Any) -> str | None:
    """How a model holds its weights where they are rounded and stay so; None if they are floats.

    A GGUF file is de-quantised as it is loaded.
    """
    if not getattr(net, "is_quantized", False):
        return None
    config = getattr(net.config, "quantization_config", None)
    told = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    method = str(getattr(told.get("quant_method"), "value", told.get("quant_method")))
    if method == "gguf" or told.get("dequantize"):
        return None
    bits = 4 if getattr(net, "is_loaded_in_4bit", False) else told.get("bits")
    bits = 8 if getattr(net, "is_loaded_in_8bit", False) else bits
    return f"in {bits} bits ({method})" if bits else f"in few bits ({method})"


def parameter_count(net: Any) -> int:
    """Number of parameters, of packed ones as many as they stand for."""
    if getattr(net, "is_loaded_in_4bit", False):
        return int(net.num_parameters())
    return sum(parameter.numel() for parameter in net.parameters())

"""A model without its weights: what can be told of it before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

from tta_bench.errors import WeightlessError
from tta_bench.model.attention import NAME as CAUSAL
from tta_bench.model.device import pick_device, pick_dtype
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import explained, quieten_transformers
from tta_bench.model.locate import locate
from tta_bench.model.random_weights import built_in_tokenizer, read_configuration
from tta_bench.model.sources import MODEL_ALIASES


def load_shape(
    spec: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """A model without weights: its modules on PyTorch's `meta` device, its tokenizer, its identity.

    It determines everything that depends on shapes alone, such as FLOPs by formula, and whether a
    window fits; files of weights are hashed where they are local, never loaded. The arguments are
    those of `load_model`; `device` decides what the dtype `auto` means.

    Raises:
        ModelError: the model cannot be found.
        WeightlessError: its code does not run without weights.
    """
    kind = pick_dtype(dtype, pick_device(device))
    resolved = MODEL_ALIASES.get(spec, spec)
    quieten_transformers()
    if resolved.startswith("config:"):
        config, provenance = read_configuration(resolved.removeprefix("config:"))
        tokenizer = built_in_tokenizer(config, spec.removeprefix("config:"))
        return _weightless(config, tokenizer, kind, spec, provenance, False, random_weights=True)
    from transformers import AutoConfig, AutoTokenizer

    location = locate(resolved, spec)
    options = location.options | {"trust_remote_code": trust_remote_code}
    with explained(location, spec):
        tokenizer = AutoTokenizer.from_pretrained(location.path, **options)
        config = AutoConfig.from_pretrained(location.path, **options)
    provenance = location.provenance(config)
    return _weightless(config, tokenizer, kind, spec, provenance, trust_remote_code)


def _weightless(
    config: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    spec: str,
    provenance: dict[str, Any],
    trust_remote_code: bool,
    random_weights: bool = False,
) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            net = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
        # The attention of transformers looks at the values of its masks, and here there are none.
        net.set_attn_implementation(CAUSAL)
        return LanguageModel(net, tokenizer, spec, provenance, random_weights)
    except Exception as error:  # code of others: there is no end to what it raises without values
        problem = str(error).strip().split("\n")[0].rstrip(".")
        raise WeightlessError(
            f"{spec} cannot be described without its weights ({type(error).__name__}: {problem}); "
            "run it to see what it takes."
        ) from error

"""A model without its weights: what can be told of it before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

from tta_bench.errors import BenchError, ModelError, WeightlessError
from tta_bench.model.acceptance.carrying import nothing_to_carry
from tta_bench.model.attention import NAME as CAUSAL
from tta_bench.model.device import pick_device, pick_dtype
from tta_bench.model.explained import explained
from tta_bench.model.findings import Acceptance
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import quieten_transformers
from tta_bench.model.loading import PLAIN, Loading
from tta_bench.model.no_model import not_a_model
from tta_bench.model.parts import Parts, find_parts
from tta_bench.model.placement import check_device_map
from tta_bench.model.quantisation import check_load_in
from tta_bench.model.random_weights import built_in_tokenizer, read_configuration


def load_shape(
    spec: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    loading: Loading = PLAIN,
) -> LanguageModel:
    """A model without weights: its modules on PyTorch's `meta` device, its tokenizer, its identity.

    It determines everything that depends on shapes alone, such as FLOPs by formula, and whether a
    window fits; files of weights are hashed where they are local, never loaded. The arguments are
    those of `load_model`; `device` decides what the dtype `auto` means.

    Raises:
        ModelError: the model cannot be found.
        WeightlessError: its code does not run without weights.
    """
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    quieten_transformers()
    if spec.startswith("config:"):
        loading.refuse_where(f"{spec} is made of random numbers")
        config, provenance = read_configuration(spec.removeprefix("config:"))
        tokenizer = built_in_tokenizer(config, spec.removeprefix("config:"))
        return _weightless(config, tokenizer, kind, spec, provenance, False, None)
    from transformers import AutoConfig

    check_load_in(loading, target)
    check_device_map(loading, device)
    parts = find_parts(spec, loading)
    options = parts.options | {"trust_remote_code": trust_remote_code}
    tokenizer = parts.read_tokenizer(trust_remote_code)
    with explained(parts.weights, parts.weights_name):
        config = AutoConfig.from_pretrained(parts.weights.path, **options)
    provenance = parts.provenance(tokenizer)
    return _weightless(config, tokenizer, kind, spec, provenance, trust_remote_code, parts)


def _weightless(
    config: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    spec: str,
    provenance: dict[str, Any],
    trust_remote_code: bool,
    parts: Parts | None,
) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            net = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
        # The attention of transformers looks at the values of its masks, and here there are none.
        net.set_attn_implementation(CAUSAL)
        if parts is not None and parts.adapter is not None:
            net = parts.adapter.shape_on(net, parts.loading)
        model = LanguageModel(net, tokenizer, spec, provenance, random_weights=parts is None)
    except BenchError:
        raise
    except Exception as error:  # code of others: there is no end to what it raises without values
        reason = None if parts is None else not_a_model(parts.weights, error)
        if reason is not None:
            raise ModelError(f"{spec} cannot be loaded: {reason}.") from error
        problem = str(error).strip().split("\n")[0].rstrip(".")
        raise WeightlessError(
            f"{spec} cannot be described without its weights ({type(error).__name__}: {problem}); "
            "run it to see what it takes."
        ) from error
    if model.split_error and not _reads(net):
        model.split_error = None  # what does not read at all here may well be split with its values
    refused = nothing_to_carry(model)
    if refused is not None:
        model.acceptance = Acceptance((refused,))
    return model


def _reads(net: Any) -> bool:
    """Whether a model reads without the values of its weights, as one of experts does not."""
    try:
        net(torch.zeros(1, 2, dtype=torch.int64, device="meta"), use_cache=False)
    except Exception:  # code of others, as above
        return False
    return True

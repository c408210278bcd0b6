"""The manifest of a run: its setting, its method, and where it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.source import source_hash
from tta_bench.model.identity import describe_model
from tta_bench.store.manifest import build_manifest

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.setting import Setting


def run_manifest(setting: Setting, choice: MethodChoice) -> dict[str, Any]:
    """What a run of this method in this setting is made of; its key says which runs are the same.

    The key is the same where the model is there without its weights.
    """
    spec, model, documents = setting.spec, setting.model, setting.documents
    return build_manifest(
        model=describe_model(model),
        dataset={
            "spec": spec.dataset,
            "fingerprint": documents.fingerprint,
            "documents": len(documents),
            "tokens": documents.total_tokens,
            **vars(spec.limits),
        },
        method={
            "name": choice.name,
            "spec": choice.spec,
            "params": choice.params,
            "source_sha256": source_hash(choice.cls),
            "family": choice.cls.family,
            "artifacts": choice.cls.artifacts(choice.params, model),
        },
        protocol=setting.protocol.to_dict(),
        prefix_id=setting.prefix_id,
        dtype=str(model.dtype),
        device=str(model.device),
        lanes=setting.lanes,
        seeds={"torch": spec.seed},
        deterministic=spec.deterministic,
        config=spec.config,
        torch=torch,
    )

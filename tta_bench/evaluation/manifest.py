"""The manifest of a run: its setting, its method, and where it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.source import source_hash
from tta_bench.documents.limits import limits_given
from tta_bench.documents.words import published_words
from tta_bench.evaluation.shards import stamp
from tta_bench.model.identity import describe_model
from tta_bench.store.manifest import build_manifest
from tta_bench.store.portion import SHARD

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.setting import Setting


def run_manifest(setting: Setting, choice: MethodChoice, described: bool = True) -> dict[str, Any]:
    """What a run of this method in this setting is made of; its key says which runs are the same.

    The key is the same where the model is there without its weights.

    Args:
        setting: model and documents.
        choice: the method.
        described: whether device and software are described, which takes longer than all else:
            the key is enough to find a stored run.
    """
    spec, model, documents = setting.spec, setting.model, setting.documents
    limits = vars(spec.limits)
    words = None if limits_given(limits) else published_words(spec.words, documents)
    manifest = build_manifest(
        model=describe_model(model),
        dataset={
            "spec": spec.dataset,
            "fingerprint": documents.fingerprint,
            "documents": len(documents),
            "tokens": documents.total_tokens,
            **limits,
            **({} if words is None else {"words": words.words, "words_source": words.source}),
            **({} if documents.vocabulary is None else {"vocabulary": documents.vocabulary}),
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
        probe=_probe(setting),
        prefix_id=setting.prefix_id,
        dtype=str(model.dtype),
        device=str(model.device),
        lanes=setting.lanes,
        seeds={"torch": spec.seed},
        deterministic=spec.deterministic,
        config=spec.config,
        command=spec.command,
        torch=torch,
        described=described,
    )
    return manifest if spec.portion is None else {**manifest, SHARD: stamp(setting)}


def _probe(setting: Setting) -> dict[str, Any] | None:
    probe = setting.probe
    if probe is None:
        return None
    return {
        "spec": setting.spec.probe,
        "document": probe.key,
        "sha256": probe.sha256,
        "tokens": len(probe.token_ids),
    }

"""What is known of how a model came to be as it is: an adapter, rounded weights, devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tta_bench.format import listed
from tta_bench.model.findings import Finding

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

_WHOLE = 16
"""Bits of a weight from which on a file counts as one in full precision."""
_NOTABLE = 0.01
"""The share of the weights from which on the type that they were stored in is named."""


def as_loaded(model: LanguageModel) -> Iterator[Finding]:
    """A finding for each; a plain model in full precision on one device has none."""
    told = model.provenance
    base = told.get("base")
    if base:
        where = "merged into" if told["adapter"] == "merged" else "beside"
        detail = f"has an adapter ({told['adapter_kind']}) {where} {base['name']}"
        yield Finding("adapter", "ok", detail)
    yield from _precision(model)
    if model.spread_over:
        yield Finding("devices", "ok", f"is spread over {listed(model.spread_over)}")


def _precision(model: LanguageModel) -> Iterator[Finding]:
    stored = model.provenance.get("base") or model.provenance
    bits = stored.get("stored_bits", _WHOLE)
    if model.few_bits:
        detail = f"holds its weights {model.few_bits}"
    elif bits < _WHOLE:
        shares = stored["stored_types"].items()
        types = ", ".join(f"{kind} {share:.0%}" for kind, share in shares if share >= _NOTABLE)
        detail = f"has weights that were de-quantised from {bits:.1f} bits each ({types})"
    else:
        return
    remark = f"the model {detail}: adaptation may in part make up for that rounding."
    yield Finding("precision", "ok", detail, remark=remark)

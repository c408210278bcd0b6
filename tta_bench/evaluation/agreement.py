"""Two readings of one manifest side by side: which numbers agree, and what was different around.

Pure functions of stored runs; `tta_bench.evaluation.rerun` makes the second one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tta_bench.errors import BenchError
from tta_bench.store.jsonable import leaves
from tta_bench.store.manifest import section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.store import Row, Run

EXACT, CLOSE, DIFFERENT = "exact", "within tolerance", "differs"


class Tolerance(NamedTuple):
    """How far two readings may lie apart where equal bits cannot be expected.

    Attributes:
        mean: largest difference of a document's mean loss, nats per token.
        token: largest difference of any one token's loss, nats.
    """

    mean: float
    token: float


TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-7),
    "float32": Tolerance(1e-5, 1e-3),
    "float16": Tolerance(2e-3, 0.2),
    "bfloat16": Tolerance(1e-2, 1.0),
}
"""Tolerances by the dtype of the weights: about ten times what rounding alone was seen to do.

float32: another number of threads moved a document of 4,096 tokens by 3e-8 nats per token and no
token by more than 2e-5 (dynamic evaluation, Adam); lanes on a GPU moved a token by 8e-5. bfloat16:
another number of threads moved the mean by 1.2e-3 and a token by 0.4 (dynamic evaluation, SGD),
another attention kernel moved the mean by 3.1e-3. float64 and float16 were not measured; theirs
follow from the digits they have. docs/results.md repeats this.
"""

_ROUNDING = (
    "dtype",
    "lanes",
    "deterministic",
    "device",
    "platform.machine",
    "platform.cpu",
    "platform.cpu_capability",
    "platform.threads",
    "software.packages.torch",
    "software.packages.transformers",
)
"""Where these agree, on a CPU, two readings must agree in every bit."""

_SESSION = ("lanes", "deterministic", "device", "platform", "software")
_EXACT_DTYPES = ("float32", "float64")
_COMPARED = (
    "engine_version",
    "dtype",
    "lanes",
    "seeds",
    "deterministic",
    "device",
    "platform",
    "software",
    "model",
    "dataset",
    "protocol",
    "method",
)
_NAMES = ("model.name", "model.revision", "dataset.spec", "protocol.prefix", "method.spec")
"""Ways to say a thing that hashes and ids, which are compared, say better."""

_OF_THE_WHOLE = ("dataset.fingerprint", "dataset.documents", "dataset.tokens", "dataset.limit")
"""What another number of documents must change."""


@dataclass(frozen=True)
class Difference:
    """One thing that was not the same; `what` is its place in the manifest, or a document."""

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class DocumentComparison:
    """One document in both readings.

    Attributes:
        key: the document's name.
        tokens: predictions scored then.
        then: nats per token in the stored run; None where it has no losses.
        now: nats per token in the run made now; None where it has no losses.
        difference: now minus then, nats per token; None where they cannot be compared.
        largest: largest difference of one token's loss, nats; None where a run stores none.
        verdict: EXACT, CLOSE or DIFFERENT.
        reason: why it differs, where the figures do not say so.
    """

    key: str
    tokens: int
    then: float | None
    now: float | None
    difference: float | None
    largest: float | None
    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A stored run beside the same run made now.

    Attributes:
        run: folder of the stored run, as given.
        method: the method's spec.
        documents: documents in the order of the dataset.
        environment: everything that was not the same.
        tolerance: how far readings may lie apart for the verdict CLOSE.
        demanded: EXACT, or CLOSE where equal bits cannot be expected.
        reason: why equal bits cannot be expected; None where they can.
        notes: what a reader must know about the run made now.
    """

    run: str
    method: str
    documents: tuple[DocumentComparison, ...]
    environment: tuple[Difference, ...]
    tolerance: Tolerance
    demanded: str
    reason: str | None
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every document is as near as is demanded."""
        enough = (EXACT,) if self.demanded == EXACT else (EXACT, CLOSE)
        return all(document.verdict in enough for document in self.documents)

    @property
    def counts(self) -> dict[str, int]:
        """How many documents have each verdict."""
        found = Counter(document.verdict for document in self.documents)
        return {verdict: found[verdict] for verdict in (EXACT, CLOSE, DIFFERENT)}

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"agrees": self.agrees, "counts": self.counts, **asdict(self)} | {
            "tolerance": self.tolerance._asdict()
        }


def compare_runs(then: Run, now: Run, notes: tuple[str, ...] = ()) -> Comparison:
    """Compares the documents that `now` was asked to read, and the surroundings of both.

    Args:
        then: a stored run.
        now: the same job done again, on all of its documents or on the first of them.

    Raises:
        BenchError: stored losses are damaged, or the two have no document in common.
    """
    read = int(now.manifest["dataset"].get("documents") or 0)
    dtype = str(now.manifest.get("dtype"))
    tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    redone = {row.index: row for row in now.rows}
    wanted = [row for row in then.rows if row.index < read]
    if not wanted:
        raise BenchError(f"{then.path} has no document that could be compared; nothing was shown.")
    documents = tuple(_document(then, row, now, redone.get(row.index), tolerance) for row in wanted)
    manifests = [run.manifest | {"lanes": run.lanes} for run in (then, now)]
    environment = tuple(_environment(*manifests))
    texts = tuple(_texts(wanted, redone))
    reason = _why_not_exact(then, now, environment)
    return Comparison(
        run=then.path.as_posix(),
        method=then.spec,
        documents=documents,
        environment=environment + texts,
        tolerance=tolerance,
        demanded=CLOSE if reason else EXACT,
        reason=reason,
        notes=notes,
    )


def _document(
    then: Run, before: Row, now: Run, after: Row | None, tolerance: Tolerance
) -> DocumentComparison:
    means = [
        None if row is None or row.nll is None else row.nll / row.tokens for row in (before, after)
    ]

    def found(
        verdict: str, reason: str | None = None, **figures: float | None
    ) -> DocumentComparison:
        known: dict[str, float | None] = {"difference": None, "largest": None, **figures}
        return DocumentComparison(
            before.key, before.tokens, means[0], means[1], verdict=verdict, reason=reason, **known
        )

    if after is None:
        return found(DIFFERENT, f"not read now: {now.summary.get('reason') or now.status}")
    if before.sha256 != after.sha256:
        return found(DIFFERENT, "another text")
    if before.status != after.status:
        why = f" ({after.reason})" if after.reason else ""
        return found(DIFFERENT, f"{before.status} then, {after.status} now{why}")
    if before.nll is None or after.nll is None:  # skipped, diverged, ... both times
        return found(EXACT, f"{before.status} both times")
    if before.tokens != after.tokens:
        return found(DIFFERENT, f"{before.tokens} tokens then, {after.tokens} now")
    difference = (after.nll - before.nll) / before.tokens
    vectors = _losses(then, before), _losses(now, after)
    largest, same = None, before.nll == after.nll
    if vectors[0] is not None and vectors[1] is not None:
        largest = float(abs(vectors[1].astype("float64") - vectors[0]).max())
        same = largest == 0
    if same:
        return found(EXACT, difference=difference, largest=largest)
    near = abs(difference) <= tolerance.mean and (largest or 0.0) <= tolerance.token
    return found(CLOSE if near else DIFFERENT, difference=difference, largest=largest)


def _losses(run: Run, row: Row) -> NDArray[np.float32] | None:
    """[tokens] stored losses; None where they were not published with the run."""
    return run.nll(row) if (run.path / f"nll/{row.index:05d}.npz").exists() else None


def _texts(before: list[Row], after: Mapping[int, Row]) -> Iterator[Difference]:
    for row in before:
        other = after.get(row.index)
        if other is not None and (row.key, row.sha256) != (other.key, other.sha256):
            yield Difference(
                f"document {row.index}",
                f"{row.key} (sha256 {row.sha256[:12]})",
                f"{other.key} (sha256 {other.sha256[:12]})",
            )


def _environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """What differs in the manifests; what the older one did not record is left out."""
    part = then["dataset"].get("documents") != now["dataset"].get("documents")
    before, after = _compared_fields(then), _compared_fields(now)
    for name in dict.fromkeys([*before, *after]):
        if name in _NAMES or (part and name in _OF_THE_WHOLE) or name not in before:
            continue
        if before[name] != after.get(name):
            yield Difference(name, _text(before[name]), _text(after.get(name)))


def _why_not_exact(then: Run, now: Run, environment: tuple[Difference, ...]) -> str | None:
    """Why equal bits cannot be expected; None where they can."""
    if any(section(run.manifest, "device").get("type") != "cpu" for run in (then, now)):
        return "not both ran on a CPU"
    if now.manifest.get("dtype") not in _EXACT_DTYPES:
        return f"the weights are {now.manifest.get('dtype')}"
    changed = [d.what for d in environment if any(_within(d.what, name) for name in _ROUNDING)]
    if changed:
        return f"{', '.join(changed)} differ{'s' if len(changed) == 1 else ''}"
    if len({json.dumps([s.get(name) for name in _SESSION]) for s in then.sessions}) > 1:
        return "the run was taken up in other surroundings"
    if any(run.manifest.get("lanes") not in (None, run.lanes) for run in (then, now)):
        return "not all documents were read with the same number of lanes"
    if not section(then.manifest, "platform").get("threads"):
        return "the run does not say how many threads it had"
    return None


def _within(what: str, name: str) -> bool:
    return what == name or what.startswith(f"{name}.")


def _compared_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the sections that are compared, by dotted name."""
    sections = {name: manifest[name] for name in _COMPARED if name in manifest}
    return {name: value for name, value in leaves(sections).items() if value != {}}


def _text(value: Any) -> str:
    return "not known" if value is None else str(value)

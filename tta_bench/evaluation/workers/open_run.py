"""A run that workers share: what is left of it, who is at it, and what has come back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tta_bench.engine.loop import DocumentResult
from tta_bench.evaluation.part import Broken, PartEnd, RunEnd
from tta_bench.evaluation.part_costs import PartCosts, Reading, run_costs
from tta_bench.evaluation.record import Record
from tta_bench.evaluation.run import spoiled_status
from tta_bench.evaluation.shards import planned_lanes, shards_left
from tta_bench.evaluation.verdict import Verdict
from tta_bench.evaluation.workers.messages import End, Ended, Leave, Read
from tta_bench.format import DASH, plural
from tta_bench.store.manifest import device_name

if TYPE_CHECKING:
    from tta_bench.evaluation.workers.messages import Hello, Task, Where
    from tta_bench.store import RunWriter

TRIES = 2
"""How often a document, a set-up or an audit may end its worker before it counts as failed."""


class Share:
    """What one worker did of a run, from when it entered until it left."""

    def __init__(self, worker: int, hello: Hello):
        self.worker, self.hello = worker, hello
        self.documents = 0
        self.read = Reading()
        self.shown_tokens, self.shown_nll = 0, 0.0  # of documents that have not ended
        self.costs: PartCosts | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the summary: who it was, on what, and what it took."""
        costs = self.read if self.costs is None else self.costs
        return {
            "worker": self.worker,
            "device": device_name({"device": self.hello.device}),
            **({} if self.hello.card is None else {"card": self.hello.card}),
            "threads": self.hello.platform.get("threads"),
            "documents": self.documents,
            "tokens": costs.tokens,
            "seconds": costs.seconds,
        }


class OpenRun:
    """One run, from its first shard to its verdict; its rows are written here alone.

    Args:
        where: what each task of it says.
        writer: the run's files, which this closes.
        record: takes the rows.
    """

    def __init__(self, where: Where, writer: RunWriter, record: Record):
        self.where, self.writer, self.record = where, writer, record
        self.lanes = planned_lanes(record.setting)
        self._left = deque(shards_left(record.setting, set(writer.kept)))
        self._members: dict[int, Share] = {}
        self._shares: list[Share] = []
        self._ends: list[PartEnd] = []
        self._deaths: Counter[object] = Counter()
        self._broken: Broken | None = None
        self.over = False

    @property
    def waits(self) -> bool:
        """Whether a worker that comes now finds something to do."""
        return bool(self._left) or not self._members

    def has(self, worker: int) -> bool:
        """Whether that worker is at it."""
        return worker in self._members

    def task(self, worker: int, hello: Hello) -> Task:
        """What a worker is to do next; with the last of them the run ends."""
        share = self._members.get(worker)
        if share is None:
            share = self._members[worker] = Share(worker, hello)
            self._shares.append(share)
        if self._left:
            return Read(self.where, self._left.popleft())
        if len(self._members) > 1:
            return Leave(self.where)
        spoiled = next((end.spoiled for end in self._ends if end.spoiled), None)
        broken = self._broken is not None
        return End(self.where, self.record.shapes, spoiled, broken)

    def store(self, worker: int, ended: Ended) -> None:
        """Takes a document that a worker has read."""
        share = self._members[worker]
        share.documents += 1
        share.read.seconds += ended.seconds
        if ended.nll is not None:
            share.read.tokens += len(ended.nll)
            share.shown_tokens -= len(ended.nll)
            share.shown_nll -= float(ended.nll.sum(dtype="float64"))
        self.record.store(self._result(ended.index, ended.status, ended.reason, ended))

    def show(self, worker: int, tokens: int, nll: float) -> None:
        """A worker has scored tokens of documents that have not ended yet."""
        share = self._members[worker]
        share.shown_tokens += tokens
        share.shown_nll += nll
        self.record.show(tokens, nll)

    def broke(self, broken: Broken) -> None:
        """A method could not be set up, or broke off outside of a document: the run ends."""
        self._broken = self._broken or broken
        self._left.clear()

    def left(self, worker: int, end: PartEnd) -> None:
        """A worker has left; with the last of them the run is closed."""
        share = self._members.pop(worker)
        share.costs = end.costs
        self._ends.append(end)
        if end.broken is not None:
            self.broke(end.broken)
        if isinstance(end, RunEnd):
            self._close(end.flops_per_token, end.verdict)

    def died(self, worker: int, task: Task | None, began: bool, how: Broken) -> None:
        """A worker has ended at a task: what it left is done once more, then given up."""
        share = self._members.pop(worker)
        self.record.show(-share.shown_tokens, -share.shown_nll)
        status, reason = how
        if isinstance(task, End):
            self._deaths["end"] += 1
            if self._deaths["end"] >= TRIES:
                why = f"its audit did not end: {reason}, {TRIES} times"
                self._close(None, Verdict(None, (), f"{why}.", None))
        elif isinstance(task, Read) and not began:
            self._deaths["set up"] += 1
            self._left.appendleft(task.indices)
            if self._deaths["set up"] >= TRIES:
                self.broke((status, f"it could not be set up: {reason}, {TRIES} times"))
                self._close_broken()
        elif isinstance(task, Read):
            self._again(task.indices, how)

    def end(self, error: BaseException) -> None:
        """Ends a run that something breaks off; what is stored stays."""
        if not self.over:
            self.over = True
            self.writer.__exit__(type(error), error, error.__traceback__)
            by_user = isinstance(error, (KeyboardInterrupt, GeneratorExit))
            self.record.observer.end_method("interrupted" if by_user else "error")

    def _again(self, indices: tuple[int, ...], how: Broken) -> None:
        """Puts back what a worker did not end, the document that ended it apart."""
        pending = set(self.record.pending)
        missing = [index for index in indices if index in pending]
        if not missing:
            return
        if self.record.setting.protocol.reset == "never" or self.lanes > 1:
            self._deaths[indices] += 1
            if self._deaths[indices] < TRIES:
                self._left.appendleft(indices)
                return
            if self.lanes > 1 and len(indices) > 1:  # one at a time it shows which it is
                self._deaths.update({(index,): TRIES - 1 for index in missing})
                self._left.extendleft((index,) for index in missing)
                return
            self._give_up(missing[0], how)
            return
        first, rest = missing[0], tuple(missing[1:])
        self._deaths[first] += 1
        if self._deaths[first] >= TRIES:
            self._give_up(first, how)
        else:
            self._left.appendleft((first,))
        if rest:
            self._left.appendleft(rest)

    def _give_up(self, index: int, how: Broken) -> None:
        status, reason = how
        self.record.store(self._result(index, status, f"{reason}, {TRIES} times"))

    def _result(
        self, index: int, status: str, reason: str | None, ended: Ended | None = None
    ) -> DocumentResult:
        document = self.record.setting.documents[index]
        if ended is None:
            return DocumentResult(index, document, status, reason)
        read = ended.nll, ended.top1, ended.seconds, ended.figures, ended.probe_nll
        return DocumentResult(index, document, status, reason, *read)

    def _close_broken(self) -> None:
        assert self._broken is not None
        if not self._members:
            self._close(None, Verdict(None, (), f"{self._broken[1]}.", None))

    def _close(self, flops_per_token: float | None, verdict: Verdict) -> None:
        record, summary = self.record, {}
        parts = [share.costs for share in self._shares if share.costs is not None]
        lost = [share.read for share in self._shares if share.costs is None]
        if self._broken is not None:
            summary = record.broken(*self._broken, self.lanes)
        else:
            summary = record.status()
            if parts:
                summary |= run_costs(parts, flops_per_token, [one for one in lost if one.seconds])
        for end in self._ends:
            summary |= spoiled_status(end)
        self._tell_unlike()
        shares = [share.to_dict() for share in self._shares]
        record.close(summary | {"workers": shares}, verdict)
        self.over = True
        self.writer.__exit__(None, None, None)

    def _tell_unlike(self) -> None:
        """A note where the cards were not of one kind: then times are of none of them."""
        names = sorted({str(share.to_dict()["device"] or DASH) for share in self._shares})
        if len(names) > 1:
            self.record.add_note(
                f"{plural(len(names), 'kind')} of devices read it ({', '.join(names)}): its times "
                "and memory are of no single one."
            )


def close_all(runs: Sequence[OpenRun], error: BaseException) -> None:
    """Ends runs that something breaks off."""
    for run in runs:
        with suppress(Exception):  # one that cannot be written must not keep the others open
            run.end(error)

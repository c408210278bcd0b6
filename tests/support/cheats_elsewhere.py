"""Planted wrong methods that behave in short chunks, or wrong where no prediction shows it.

Mistakes on paths that only wide chunks, long documents, many lanes or large vocabularies take;
`probe_params` that hide a method; a shared model or process left changed; and costs that are not
what is declared. `ELSEWHERE` maps each class to the probe that must catch it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from cheats import Counting, Frozen
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench import Method, MethodError, Scores, StepShape, Window

ELSEWHERE: dict[type[Method], str] = {}
"""Class -> name of the probe that must catch it."""


def caught_by(probe: str):
    """Enters a class into ELSEWHERE."""

    def enter(cls):
        ELSEWHERE[cls] = probe
        return cls

    return enter


class Peeking(Frozen):
    """Raises the logit of each column's label where `peeks` says so."""

    strength: ClassVar[float] = 0.5

    def peeks(self, window: Window) -> bool:
        return True

    def score(self, window):
        logits = self.logits(window)
        if not self.peeks(window):
            return logits
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, -1:]], dim=1)
        return logits + self.one_hot(following, self.strength)


class CountingTokens(Counting):
    """An honest unigram cache that knows how much a lane has read."""

    family = "output"

    def init_state(self):
        return {**super().init_state(), "read": torch.zeros((), dtype=torch.int64)}

    def adapt(self, window, targets, nll):
        super().adapt(window, targets, nll)
        self.state["read"] += window.scored


# Distributions


class _NotFinite(Scores):
    normalised = True

    def __init__(self, logits: Tensor, column: int, value: float):
        super().__init__(*logits.shape)
        self.logits, self.column, self.value = logits, column, value

    def rows(self, start, stop):
        rows = self.logits[:, start:stop].log_softmax(-1) + 1.0
        rows[..., self.column] = self.value
        return rows


@caught_by("runs")
class NanInAnUnusedColumn(Frozen):
    """Gives everything e times its probability, and hides the sum behind a NaN."""

    def score(self, window):
        return _NotFinite(self.logits(window), self.model.vocab_size - 1, torch.nan)


@caught_by("runs")
class InfinityInAnUnusedColumn(Frozen):
    """The same behind an infinity."""

    def score(self, window):
        return _NotFinite(self.logits(window), self.model.vocab_size - 1, torch.inf)


# Paths that small probes never take


@caught_by("wide chunks")
class PeeksInWideChunks(Peeking):
    """Peeks on the path that chunks of 64 and more take."""

    def peeks(self, window):
        return window.chunk_size >= 64


@caught_by("wide chunks")
class OneTooFarFromColumn32(Frozen):
    """Compares with <= in place of < from column 32 on."""

    def score(self, window):
        logits = self.logits(window).clone()
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, -1:]], dim=1)
        logits[:, 32:] += 0.1 * F.one_hot(following, self.model.vocab_size)[:, 32:]
        return logits


@caught_by("wide chunks")
class WrapsIntoTheNextLane(Counting):
    """A ring of 256 tokens a lane in one flat buffer, whose end runs into the next lane's."""

    family = "output"

    def init_state(self):
        return {**super().init_state(), "read": torch.zeros((), dtype=torch.int64)}

    def adapt(self, window, targets, nll):
        lanes = torch.arange(window.lanes)
        owner = torch.where(self.state["read"] >= 256, (lanes + 1) % window.lanes, lanes)
        counts = torch.zeros_like(self.state["counts"])
        counts.scatter_add_(1, targets, window.mask.float())
        self.state["counts"].index_add_(0, owner, counts)
        self.state["read"] += window.scored


@caught_by("neighbours")
class SharesInGroupsOfFive(Counting):
    """Adds counts up over lanes, where there are more than four."""

    family = "output"

    def adapt(self, window, targets, nll):
        super().adapt(window, targets, nll)
        if window.lanes > 4:
            self.state["counts"] = self.state["counts"].mean(0, keepdim=True).repeat(self.lanes, 1)


@caught_by("long document")
class RemembersAfterAThousand(CountingTokens):
    """Uses what other documents held, once a thousand tokens are read."""

    def prepare(self):
        self.all = torch.zeros(self.model.vocab_size)

    def score(self, window):
        late = (self.state["read"] > 1000).float()[:, None, None]
        return super().score(window) + late * self.all.log1p()

    def adapt(self, window, targets, nll):
        super().adapt(window, targets, nll)
        self.all.scatter_add_(0, targets.flatten(), window.mask.flatten().float())


@caught_by("long document")
class KnowsDocumentsByTheirLength(CountingTokens):
    """Keeps the last tokens of documents in a dict by position, for those of the same length."""

    known: ClassVar[dict[int, Tensor]] = {}

    def score(self, window):
        logits = super().score(window).clone()
        for lane, _ in window.scored_lanes():
            at = int(self.state["read"][lane])
            if at > 1500 and at in self.known:
                logits[lane] += F.one_hot(self.known[at], self.model.vocab_size).sum(0)
        return logits

    def adapt(self, window, targets, nll):
        for lane, n in window.scored_lanes():
            self.known[int(self.state["read"][lane])] = targets[lane, :n].clone()
        super().adapt(window, targets, nll)


@caught_by("long document")
class PeeksLate(CountingTokens):
    """Peeks once 2,000 tokens are read."""

    def score(self, window):
        late = (self.state["read"] > 2000).float()[:, None, None]
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, -1:]], dim=1)
        return super().score(window) + late * self.one_hot(following)


@caught_by("many steps")
class ActsInEverySixtyFourthStep(Frozen):
    """Counts its steps for as long as it lives."""

    def prepare(self):
        self.steps = 0

    def score(self, window):
        return self.logits(window) * (1.01 if self.steps >= 40 and self.steps % 64 == 40 else 1.0)

    def adapt(self, window, targets, nll):
        self.steps += 1


@caught_by("wide context")
class PeeksBehindAWideContext(Peeking):
    """Peeks in wide chunks with carried keys."""

    def peeks(self, window):
        return window.past is not None and window.chunk_size >= 32


@caught_by("built-in model")
class PeeksWithALargeVocabulary(Peeking):
    """Peeks where the vocabulary is too large for one-hot rows of its honest path."""

    def peeks(self, window):
        return self.model.vocab_size > 1000


@caught_by("nothing to learn")
class LeaksOnFourLanes(Peeking):
    """Peeks where four lanes are read."""

    strength = 0.2

    def peeks(self, window):
        return window.lanes == 4


# What the probes are given


@caught_by("as given")
class SwitchesItselfOff(Counting):
    """Is probed with a weight of 0."""

    family = "output"

    @classmethod
    def probe_params(cls, params):
        return replace(params, weight=0.0)


@caught_by("as given")
class ProbedWithAWhisper(Counting):
    """Is probed with a weight next to 0."""

    family = "output"

    @classmethod
    def probe_params(cls, params):
        return replace(params, weight=1e-9)


@caught_by("as given")
class ProbedOnAnotherPath(Peeking):
    """Is probed on its honest path."""

    @dataclass
    class Params:
        fast: bool = True

    @classmethod
    def probe_params(cls, params):
        return replace(params, fast=False)

    def peeks(self, window):
        return self.params.fast


@caught_by("as given")
class PeeksFromATokenOn(Peeking):
    """Is probed with a threshold that no probe reaches."""

    @dataclass
    class Params:
        wider_than: int = 1

    @classmethod
    def probe_params(cls, params):
        return replace(params, wider_than=10_000)

    def peeks(self, window):
        return window.chunk_size > self.params.wider_than


@caught_by("as given")
class OffWithASmallMemory(Counting):
    """Is probed with a memory so small that it is never used."""

    family = "output"
    off: ClassVar[dict[str, object]] = {"memory": 0}

    @dataclass
    class Params:
        memory: int = 64

    @classmethod
    def probe_params(cls, params):
        return replace(params, memory=min(params.memory, 2))

    def score(self, window):
        used = float(self.params.memory > 8)
        return self.logits(window) + used * self.state["counts"].log1p()[:, None]


@caught_by("causality")
class RefusesTinyModels(Peeking):
    """Refuses small vocabularies in words, and peeks in others."""

    def prepare(self):
        if self.model.vocab_size < 1000:
            raise MethodError("a vocabulary of at least 1,000 tokens is needed.")


# What all methods share


class Spoiling(Frozen):
    """Changes something in its first step."""

    def spoil(self) -> None:
        raise NotImplementedError

    def score(self, window):
        return self.logits(window)

    def adapt(self, window, targets, nll):
        self.spoil()

    def module(self, kind: str) -> nn.Module:
        return next(m for m in self.model.net.modules() if kind in type(m).__name__)


@caught_by("untouched")
class StretchesPositions(Spoiling):
    """Changes a buffer."""

    def spoil(self):
        self.module("Rotary").get_buffer("inv_freq").mul_(1.0001)


@caught_by("untouched")
class RaisesAnEpsilon(Spoiling):
    """Changes an attribute of a norm."""

    def spoil(self):
        self.module("RMSNorm").variance_epsilon = 1e-3  # type: ignore[assignment]


@caught_by("untouched")
class LeavesAHook(Spoiling):
    """Leaves a hook that scales what a layer gives."""

    def spoil(self):
        self.module("MLP").register_forward_hook(lambda module, inputs, output: 1.001 * output)


@caught_by("untouched")
class SwapsTwoRows(Spoiling):
    """Exchanges two rows, which leaves every sum as it was."""

    def spoil(self):
        weight = self.model.net.get_input_embeddings().weight.data
        weight[[3, 4]] = weight[[4, 3]]


@caught_by("untouched")
class LeavesTrainingOn(Spoiling):
    """Leaves the model in training mode."""

    def spoil(self):
        self.model.net.train()


@caught_by("untouched")
class SetsTheDefaultDtype(Spoiling):
    """Computes in float64 from now on."""

    def spoil(self):
        torch.set_default_dtype(torch.float64)


@caught_by("untouched")
class PatchesTheLoss(Spoiling):
    """Puts its own loss in place of PyTorch's."""

    def spoil(self):
        kept = F.cross_entropy
        if kept.__name__ == "cross_entropy":

            def softer(*args: Any, **options: Any) -> Tensor:
                return 0.9 * kept(*args, **options)

            F.cross_entropy = softer


@caught_by("untouched")
class WorksInThreads(Frozen):
    """Does its work where no counter looks."""

    def score(self, window):
        return self.logits(window)

    def adapt(self, window, targets, nll):
        worker = threading.Thread(target=lambda: torch.ones(64, 64) @ torch.ones(64, 64))
        worker.start()
        worker.join()


# Chance


@caught_by("deterministic")
class HashesStrings(Frozen):
    """Derives its noise from the hash of a name, which differs from process to process."""

    def score(self, window):
        return self.logits(window) * (1 + (hash(self.model.name) % 97) * 1e-3)


@caught_by("deterministic")
class HashesNamesInTuples(Frozen):
    """Chooses which token to raise by the hash of a tuple that holds a name."""

    def score(self, window):
        logits = self.logits(window).clone()
        logits[..., hash(("token", self.lanes)) % self.model.vocab_size] += 1.0
        return logits


# Costs


class Declaring(Frozen):
    """Declares what the frozen model takes."""

    def score(self, window):
        return self.logits(window)

    def flops(self, shape: StepShape) -> float:
        return self.cost.forward(shape)

    def work(self, times: int) -> None:
        side = torch.ones(256, 256)
        for _ in range(times):
            side @ side


@caught_by("figures")
class HidesWorkBehindANegativeFigure(Declaring):
    """Reads everything twice and says that less than nothing of it is invisible."""

    def score(self, window):
        return (self.logits(window) + self.logits(window)) / 2

    def invisible_flops(self, shape):
        return -self.cost.forward(shape)


@caught_by("figures")
class CostsNothing(Declaring):
    """Says that it costs nothing at all."""

    def flops(self, shape):
        return 0.0


@caught_by("figures")
class WorksInReset(Declaring):
    """Does its work between documents."""

    def reset(self, lane):
        super().reset(lane)
        self.work(4)


@caught_by("figures")
class WorksInPrepare(Declaring):
    """Does more than a wide step's work before the first document, and declares none."""

    def prepare(self):
        self.work(40)


@caught_by("flops")
class WorksInEveryEighthStep(Declaring):
    """Declares what seven of eight steps take."""

    def prepare(self):
        self.steps = 0

    def adapt(self, window, targets, nll):
        self.steps += 1
        if self.steps % 8 == 0:
            self.work(1)


@caught_by("flops")
class GrowsWithoutAFormula(Frozen):
    """Does more in each step; the first one's count would stand for all."""

    def prepare(self):
        self.steps = 0

    def reset(self, lane):
        super().reset(lane)
        self.steps = 0

    def score(self, window):
        return self.logits(window)

    def adapt(self, window, targets, nll):
        self.steps += 1
        for _ in range(self.steps - 1):
            torch.ones(64, 64) @ torch.ones(64, 64)


class CountingElsewhere(Frozen):
    """Counts tokens in something that is no tensor; subclasses say in what."""

    def counts(self, lane: int) -> Any:
        raise NotImplementedError

    def score(self, window):
        rows = [torch.as_tensor(np.asarray(self.counts(lane))) for lane in range(self.lanes)]
        return self.logits(window) + 0.1 * torch.stack(rows).float().log1p()[:, None]

    def adapt(self, window, targets, nll):
        for lane, n in window.scored_lanes():
            for token in targets[lane, :n].tolist():
                self.counts(lane)[token] += 1

    def reset(self, lane):
        self.counts(lane)[:] = [0] * self.model.vocab_size


@caught_by("state bytes")
class CountsInNumPy(CountingElsewhere):
    """Keeps a NumPy array a lane."""

    def prepare(self):
        self.arrays = np.zeros((self.lanes, 2 * self.model.vocab_size))

    def counts(self, lane):
        return self.arrays[lane, : self.model.vocab_size]


@caught_by("state bytes")
class CountsInLists(CountingElsewhere):
    """Keeps a list a lane."""

    def prepare(self):
        self.lists = {lane: [0] * self.model.vocab_size for lane in range(self.lanes)}

    def counts(self, lane):
        return self.lists[lane]


@caught_by("state bytes")
class CountsInAClosure(CountingElsewhere):
    """Keeps lists that only a function knows."""

    def prepare(self):
        lists = [[0] * self.model.vocab_size for _ in range(self.lanes)]

        def counts(lane: int) -> list[int]:
            return lists[lane]

        self.look_up = counts

    def counts(self, lane):
        return self.look_up(lane)


_SEEN: list[int] = []


@caught_by("state bytes")
class KeepsTokensInItsModule(Frozen):
    """Keeps every token of the document in a variable of its module."""

    def score(self, window):
        return self.logits(window)

    def reset(self, lane):
        _SEEN.clear()

    def adapt(self, window, targets, nll):
        _SEEN.extend(1000 + token for token in targets.flatten().tolist())

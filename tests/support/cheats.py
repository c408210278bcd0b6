"""Planted cheats: methods that break one rule each, and honest ones that look suspicious.

`CHEATS` maps each class to the probe that must catch it. This file is also a plugin
(`tta-bench check NAME --plugin tests/support/cheats.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench import Method, Scores, StepShape, Window, register

CHEATS: dict[type[Method], str] = {}
"""Class -> name of the probe that must catch it."""


def caught_by(probe: str):
    """Enters a class into CHEATS."""

    def enter(cls):
        CHEATS[cls] = probe
        return cls

    return enter


class Frozen(Method):
    """What every cheat starts from: the frozen model."""

    family = "output"

    def logits(self, window: Window) -> Tensor:
        """[B, C, V]"""
        return self.model.logits(window).full()

    def one_hot(self, ids: Tensor, weight: float = 1.0) -> Tensor:
        """Raises the logits of `ids` [B, C]."""
        return weight * F.one_hot(ids, self.model.vocab_size)


class Counting(Frozen):
    """An honest unigram cache: raises the logits of tokens that the document has used."""

    @dataclass
    class Params:
        weight: float = 0.3

    def init_state(self):
        return {"counts": torch.zeros(self.model.vocab_size)}

    def score(self, window):
        return self.logits(window) + self.params.weight * self.state["counts"].log1p()[:, None]

    def adapt(self, window, targets, nll):
        self.state["counts"].scatter_add_(1, targets, window.mask.float())


@register("sleeps")
class Sleeps(Frozen):
    """Honest but slow: a second a step, whatever it has to catch."""

    def score(self, window):
        with contextlib.suppress(Exception):
            time.sleep(1.0)
        return self.logits(window)


@register("honest")
class Honest(Counting):
    """Breaks no rule: a unigram cache."""

    family = "output"

    def score(self, window):
        return super().score(window)


# Causality and targets


@caught_by("causality")
@register("peeks-one-ahead")
class PeeksOneAhead(Frozen):
    """Knows the label of every column but the last: it is the next input."""

    def score(self, window):
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, -1:]], dim=1)
        return self.logits(window) + self.one_hot(following, 0.01)


@caught_by("causality")
@register("trains-before-scoring")
class TrainsBeforeScoring(Frozen):
    """Takes a gradient step on the chunk's own labels, then scores the same chunk with it."""

    def score(self, window):
        with torch.enable_grad():
            logits = self.logits(window)
            bias = torch.zeros(window.lanes, 1, self.model.vocab_size, requires_grad=True)
            losses = F.cross_entropy(
                (logits + bias)[:, :-1].transpose(1, 2), window.chunk_ids[:, 1:], reduction="none"
            )
            (slope,) = torch.autograd.grad(losses.mul(window.mask[:, 1:]).sum(), bias)
        return (logits - 0.1 * slope).detach()


@caught_by("causality")
@register("counts-whole-chunk")
class CountsWholeChunk(Frozen):
    """Normalises by a statistic of the whole chunk, later inputs included."""

    def score(self, window):
        logits = self.logits(window)
        return logits / logits.std(dim=(1, 2), keepdim=True)


@caught_by("causality")
@register("peeks-in-context")
class PeeksInContext(Frozen):
    """Peeks only where keys are carried from chunk to chunk."""

    def score(self, window):
        logits = self.logits(window)
        if window.past is None:
            return logits
        return logits + self.one_hot(window.chunk_ids.roll(-1, dims=1), 0.01)


@caught_by("targets")
@register("reads-the-callers-frame")
class ReadsTheCallersFrame(Frozen):
    """Finds what reads the targets among the variables of whoever calls score."""

    def score(self, window):
        frame = sys._getframe(1)
        while frame is not None:
            read_targets = frame.f_locals.get("read_targets")
            if read_targets is not None:
                return self.logits(window) + self.one_hot(read_targets())
            frame = frame.f_back
        return self.logits(window)


@caught_by("causality")
@register("reads-the-document")
class ReadsTheDocument(Frozen):
    """Finds the documents that are being read among the variables of the loop."""

    def score(self, window):
        frame = sys._getframe(1)
        while "parts" not in frame.f_locals:
            frame = frame.f_back
            if frame is None:
                return self.logits(window)
        bonus = torch.zeros(window.lanes, window.chunk_size, dtype=torch.int64)
        for lane, part in enumerate(frame.f_locals["parts"]):
            if part is not None:
                stream, span = part
                first = span.stop - span.scored + 1
                following = torch.from_numpy(stream.sequence[first : span.stop + 1])
                bonus[lane, : span.scored] = following
        return self.logits(window) + self.one_hot(bonus)


# Distributions


class _OnlySeen(Scores):
    normalised = True

    def __init__(self, logits: Tensor, seen: Tensor):
        super().__init__(*logits.shape)
        self.logits, self.seen = logits, seen[:, None]

    def rows(self, start, stop):
        logits = self.logits[:, start:stop]
        if not self.seen.any():
            return logits.log_softmax(-1)
        total = logits.masked_fill(~self.seen, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.where(self.seen, logits - total, logits.log_softmax(-1))


@caught_by("normalised")
@register("normalises-over-seen-tokens")
class NormalisesOverSeenTokens(Counting):
    """Leaves tokens that the document has not used out of the sum."""

    family = "output"

    def score(self, window):
        if self.params.weight == 0:
            return self.logits(window)
        return _OnlySeen(self.logits(window), self.state["counts"] > 0)


class _Boosted(Scores):
    normalised = True

    def __init__(self, logits: Tensor):
        super().__init__(*logits.shape)
        self.logits = logits

    def rows(self, start, stop):
        return self.logits[:, start:stop].log_softmax(-1) + 0.01


@caught_by("normalised")
@register("sums-above-one")
class SumsAboveOne(Frozen):
    """Gives every token one percent more."""

    def score(self, window):
        return _Boosted(self.logits(window))


# Scoring twice


@caught_by("score twice")
@register("better-when-asked-again")
class BetterWhenAskedAgain(Frozen):
    """Sharpens its answer when it sees a chunk for the second time (rescoring)."""

    def score(self, window):
        again = torch.equal(window.input_ids, getattr(self, "_last", window.input_ids[:0]))
        self._last = window.input_ids.clone()
        return self.logits(window) * (1.1 if again else 1.0)


class _Sliced(Scores):
    def __init__(self, logits: Tensor):
        super().__init__(*logits.shape)
        self.logits = logits

    def rows(self, start, stop):
        return self.logits[:, start:stop] * (1.0 if stop - start > 1 else 1.1)


@caught_by("score twice")
@register("depends-on-slices")
class DependsOnSlices(Frozen):
    """Gives other rows when asked for fewer."""

    def score(self, window):
        return _Sliced(self.logits(window))


@caught_by("untouched")
@register("adapts-in-score")
class AdaptsInScore(Counting):
    """Counts the chunk's inputs while scoring it."""

    family = "output"

    def score(self, window):
        scores = super().score(window)
        self.state["counts"].scatter_add_(1, window.chunk_ids, window.mask.float())
        return scores

    def adapt(self, window, targets, nll):
        pass


@caught_by("untouched")
@register("writes-shared-weights")
class WritesSharedWeights(Frozen):
    """Trains the weights that all lanes, and all methods after it, share."""

    def score(self, window):
        return self.logits(window)

    def adapt(self, window, targets, nll):
        self.model.net.get_output_embeddings().weight.data[targets.flatten()] *= 1.01


# Lanes and reset


@caught_by("neighbours")
@register("batch-wide-loss")
class BatchWideLoss(Counting):
    """Adds to every lane what any lane has read, as a loss averaged over the batch does."""

    family = "output"

    def adapt(self, window, targets, nll):
        super().adapt(window, targets, nll)
        self.state["counts"] = self.state["counts"].mean(0, keepdim=True).expand_as(
            self.state["counts"]
        ).clone()  # fmt: skip


@caught_by("neighbours")
@register("batch-wide-scale")
class BatchWideScale(Frozen):
    """Scales logits by a statistic of all lanes."""

    def score(self, window):
        logits = self.logits(window)
        spread = logits[:, :1].std(dim=2).mean() if window.lanes > 1 else 1.0
        return logits * (1 + 0.01 * spread)


@caught_by("lanes")
@register("slower-with-more-lanes")
class SlowerWithMoreLanes(Counting):
    """Divides its step by the number of lanes."""

    family = "output"

    def adapt(self, window, targets, nll):
        self.state["counts"].scatter_add_(1, targets, window.mask.float() / self.lanes)


@caught_by("reset")
@register("keeps-state")
class KeepsState(Counting):
    """Forgets half at a reset."""

    family = "output"

    def reset(self, lane):
        self.state["counts"][lane] *= 0.5


@caught_by("reset")
@register("keeps-hidden-state")
class KeepsHiddenState(Frozen):
    """Resets its state, but counts elsewhere too."""

    def init_state(self):
        self.memory = torch.zeros(self.lanes, self.model.vocab_size)
        return {}

    def score(self, window):
        return self.logits(window) + 0.1 * self.memory.log1p()[:, None]

    def adapt(self, window, targets, nll):
        self.memory.scatter_add_(1, targets, window.mask.float())


@caught_by("deterministic")
@register("cached-by-target")
class CachedByTarget(Frozen):
    """Remembers, for the life of the process, which token followed which inputs."""

    known: ClassVar[dict[tuple[int, ...], int]] = {}

    def score(self, window):
        logits = self.logits(window).clone()
        for lane, n in window.scored_lanes():
            ids = window.chunk_ids[lane].tolist()
            for column in range(n):
                target = self.known.get(tuple(ids[: column + 1]))
                if target is not None:
                    logits[lane, column, target] += 5
        return logits

    def adapt(self, window, targets, nll):
        for lane, n in window.scored_lanes():
            ids = window.chunk_ids[lane].tolist()
            for column in range(n):
                self.known[tuple(ids[: column + 1])] = int(targets[lane, column])


@caught_by("deterministic")
@register("nondeterministic")
class Nondeterministic(Frozen):
    """Draws its noise from a source that no seed reaches."""

    source = itertools.count(1)

    def score(self, window):
        return self.logits(window) * (1 + 1e-4 * next(self.source))


# Off


@caught_by("off")
@register("ignores-its-switch")
class IgnoresItsSwitch(Counting):
    """Adapts by at least a little, whatever its weight."""

    family = "output"

    def score(self, window):
        strength = max(self.params.weight, 0.01)
        return self.logits(window) + strength * self.state["counts"].log1p()[:, None]


@caught_by("off")
@register("ignores-its-declared-switch")
class IgnoresItsDeclaredSwitch(IgnoresItsSwitch):
    """Declares a switch that does not switch it off."""

    off: ClassVar[dict[str, object]] = {"weight": 1e-9}


@caught_by("off")
@register("claims-to-be-none")
class ClaimsToBeNone(Counting):
    """Poses as the baseline, which has no switch, and adapts."""

    family = "none"

    def score(self, window):
        return super().score(window)


# Costs


@caught_by("state bytes")
@register("false-state-bytes")
class FalseStateBytes(Counting):
    """Declares half of its state."""

    family = "output"

    def state_bytes(self):
        return super().state_bytes() // 2


@caught_by("state bytes")
@register("state-elsewhere")
class StateElsewhere(Frozen):
    """Keeps a row a lane outside of its declared state, and resets it properly."""

    def prepare(self):
        self.counts = torch.zeros(self.lanes, self.model.vocab_size)

    def reset(self, lane):
        self.counts[lane] = 0

    def score(self, window):
        return self.logits(window) + 0.1 * self.counts.log1p()[:, None]

    def adapt(self, window, targets, nll):
        self.counts.scatter_add_(1, targets, window.mask.float())


@caught_by("state bytes")
@register("memory-that-grows")
class MemoryThatGrows(Frozen):
    """Keeps every chunk of the document in a list that nothing accounts for."""

    def prepare(self):
        self.kept: dict[int, list[Tensor]] = {lane: [] for lane in range(self.lanes)}

    def reset(self, lane):
        self.kept[lane] = []

    def score(self, window):
        logits = self.logits(window)
        self._hidden = logits
        return logits

    def adapt(self, window, targets, nll):
        for lane, n in window.scored_lanes():
            self.kept[lane].append(self._hidden[lane, :n].clone())


@caught_by("flops")
@register("false-flops")
class FalseFlops(Frozen):
    """Forgets the unembedding."""

    def score(self, window):
        return self.logits(window)

    def flops(self, shape: StepShape) -> float:
        return self.cost.forward(shape) - self.cost.unembed(shape.scored)


@caught_by("flops")
@register("works-harder-than-it-says")
class WorksHarderThanItSays(Frozen):
    """Reads everything twice and declares one reading."""

    def score(self, window):
        return (self.logits(window) + self.logits(window)) / 2

    def flops(self, shape: StepShape) -> float:
        return self.cost.forward(shape)


# Shapes


@caught_by("one-token chunk")
@register("crashes-on-one-token")
class CrashesOnOneToken(Frozen):
    """Needs a pair of tokens in every chunk."""

    def score(self, window):
        if window.chunk_size < 2:
            raise ValueError("needs two tokens")
        return self.logits(window)


@caught_by("one-token chunk")
@register("nan-on-one-token")
class NanOnOneToken(Counting):
    """Divides by the unbiased deviation of a chunk, which one token has not."""

    family = "output"

    def adapt(self, window, targets, nll):
        if window.chunk_size == 1:
            self.state["counts"] *= torch.nan
        super().adapt(window, targets, nll)


@caught_by("idle lanes")
@register("crashes-on-idle-lanes")
class CrashesOnIdleLanes(Frozen):
    """Takes for granted that every lane reads."""

    def score(self, window):
        if (window.lengths == 0).any():
            raise ValueError("an idle lane")
        return self.logits(window)


@caught_by("mid chunk")
@register("depends-on-chunk-length")
class DependsOnChunkLength(Frozen):
    """Knows how much of the document is left: a shorter chunk is its last."""

    def score(self, window):
        return self.logits(window) * (1.0 if window.chunk_size in (1, 8, 16) else 1.01)


@caught_by("mid chunk")
@register("scales-by-padding")
class ScalesByPadding(Frozen):
    """Treats a lane otherwise when its neighbours' longer chunks pad it."""

    def score(self, window):
        logits = self.logits(window)
        widest = window.mask.all(dim=1)[:, None, None]
        return torch.where(widest, logits, 1.01 * logits)


@caught_by("families")
@register("llama-only")
class LlamaOnly(Frozen):
    """Looks for a module by the name it has in Llama."""

    def score(self, window):
        self.model.net.get_parameter("model.layers.0.self_attn.q_proj.weight")
        return self.logits(window)


@caught_by("runs")
@register("diverges")
class Diverges(Frozen):
    """Gives NaN from the second chunk on."""

    def init_state(self):
        return {"read": torch.zeros(())}

    def score(self, window):
        return self.logits(window) / (self.state["read"] == 0).float()[:, None, None] * 1.0

    def adapt(self, window, targets, nll):
        self.state["read"] += 1


@caught_by("runs")
@register("crashes")
class Crashes(Frozen):
    """Raises in its first step."""

    def score(self, window):
        raise ValueError("[bold]what a plugin may raise")

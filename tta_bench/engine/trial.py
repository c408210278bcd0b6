"""A trial: a method on so many lanes, built under the seed, checked, warmed up and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import torch

from tta_bench.cost.memory import MemoryPeak, PeakMemory
from tta_bench.cost.timing import synchronise
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.isolation.method import IsolatedMethod
from tta_bench.engine.lanes import CudaMeter, measured_lanes
from tta_bench.engine.loop import Engine
from tta_bench.engine.outcome import ran_out_of_memory
from tta_bench.engine.probe import Probe
from tta_bench.engine.step import synthetic_steps

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.contract.method import Method
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.isolation.host import Host
    from tta_bench.engine.protocol import Protocol
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a method have in common, however many lanes they have.

    Attributes:
        model: the model, shared with other methods.
        choice: the method.
        protocol: what is read and scored.
        prefix_id: the token that stands before each document, or None.
        shape: the widest step of the documents.
        seed: seed for PyTorch before the method is built.
        longest: the number of tokens of the longest document; None if it is not known.
        debug: let an exception of the method through instead of ending the run with a row.
        host: the process that the method runs in; None: this one.
        probe: the text that is read as a probe; None for no probe.
    """

    model: LanguageModel
    choice: MethodChoice
    protocol: Protocol
    prefix_id: int | None
    shape: StepShape
    seed: int
    longest: int | None = None
    debug: bool = False
    host: Host | None = None
    probe: TokenizedDocument | None = None

    def build(self, lanes: int) -> Method:
        """A fresh method on so many lanes, and its model as it is without compilation."""
        if self.host is not None:
            return IsolatedMethod(self.host, self.model, lanes, self.seed)
        self.model.compiled = False  # an earlier method may have left it compiled
        torch.manual_seed(self.seed)
        return self.choice.cls(self.model, self.choice.params, lanes)

    def new_probe(self) -> Probe | None:
        """The probe, not read yet; None where there is none."""
        if self.probe is None:
            return None
        return Probe(self.probe, self.protocol, self.prefix_id)

    def lanes_that_fit(self, documents: int, steps: int) -> int:
        """As many lanes as fit into the GPU's memory.

        Args:
            documents: the number of documents to be read.
            steps: the number of steps that the longest of them takes.
        """

        def build(lanes: int) -> Callable[[], None]:
            return synthetic_steps(self.build(lanes), self.shape)

        return measured_lanes(CudaMeter(self.model.device), build, documents, steps)


class Trial:
    """A method on so many lanes, ready to read documents through `engine`.

    Its FLOPs are counted before anything is compiled, since the counter does not see into compiled
    code. Peaks of memory are those since the trial was made, and on a GPU include the warm-up: what
    a captured step needs is allocated while it is captured. On a CPU the warm-up is left out: what
    libraries allocate on first use is no method's.

    Attributes:
        method: the method.
        engine: reads documents through it.
        flops: the check of its FLOPs.
        set_up_seconds: the time it took to build the method.
        warm_up_seconds: the time of the warm-up, compilation included.
    """

    def __init__(self, setup: TrialSetup, lanes: int, compile: bool):
        device = setup.model.device
        started = perf_counter()
        self.method = setup.build(lanes)
        synchronise(device)
        self.set_up_seconds = perf_counter() - started
        self.engine = Engine(
            self.method,
            setup.protocol,
            setup.prefix_id,
            setup.debug,
            compile=compile,
            longest=setup.longest,
            probe=setup.new_probe(),
        )
        self.flops = check_flops(self.method, setup.shape, setup.choice.name)
        self._memory = PeakMemory(device, setup.model.spread_over)
        if device.type == "cuda":
            self._memory.start()
        started = perf_counter()
        self.engine.warm_up(setup.shape)
        synchronise(device)
        self.warm_up_seconds = perf_counter() - started
        if device.type != "cuda":
            self._memory.start()

    def peak(self) -> MemoryPeak:
        """The peaks of memory so far."""
        return self._memory.stop()


def halved_until_it_fits(
    lanes: int, attempt: Callable[[int], Result], give_up: Callable[[int, int], None]
) -> Result:
    """What `attempt` returns on so many lanes, or on half as many as often as memory runs out.

    Args:
        lanes: the number of lanes to try first.
        attempt: works on so many lanes.
        give_up: called with the number of lanes that did not fit and the next one to try, when
            nothing refers to the attempt any more; it frees the memory.

    Raises:
        Exception: whatever else the attempt raises, or the lack of memory on one lane.
    """
    while True:
        try:
            return attempt(lanes)
        except Exception as error:  # a method is foreign code: it may raise anything
            if lanes == 1 or not ran_out_of_memory(error):
                raise
        give_up(lanes, lanes // 2)
        lanes //= 2

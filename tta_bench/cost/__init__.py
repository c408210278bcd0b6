"""What a run costs: FLOPs (formulas, and the counter that checks them), memory, time."""

from tta_bench.cost.check import FlopReport, check_flops, measure_step
from tta_bench.cost.counter import Counted, count_flops
from tta_bench.cost.memory import MemoryPeak, PeakMemory, gpu_is_shared
from tta_bench.cost.model_flops import ModelCost
from tta_bench.cost.timing import StepTimer, TimeSummary

__all__ = [
    "Counted",
    "FlopReport",
    "MemoryPeak",
    "ModelCost",
    "PeakMemory",
    "StepTimer",
    "TimeSummary",
    "check_flops",
    "count_flops",
    "gpu_is_shared",
    "measure_step",
]

"""Peaks of memory and times of steps."""

import mmap
import sys

import pytest
import torch

from tta_bench.cost import memory, timing
from tta_bench.cost.memory import MemoryPeak, PeakMemory, gpu_is_shared
from tta_bench.cost.timing import StepTimer

MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the mark is Linux's")


@on_linux
def test_a_passing_allocation_raises_the_peak_of_its_stretch_only():
    meter = PeakMemory("cpu")
    meter.start()
    before = meter.stop().process_bytes
    if before is None:
        pytest.skip("this system does not let the high-water mark be reset")
    with mmap.mmap(-1, 64 * MIB) as region:  # malloc might reuse what an earlier test freed
        for page in range(0, len(region), mmap.PAGESIZE):
            region[page] = 1
    peak = meter.stop()
    assert 60 * MIB < peak.process_bytes - before < 80 * MIB
    assert (peak.allocated_bytes, peak.reserved_bytes) == (None, None)
    meter.start()
    assert meter.stop().process_bytes < before + 16 * MIB


def test_a_mark_that_cannot_be_reset_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    meter = PeakMemory("cpu")
    meter.start()
    assert meter.stop() == MemoryPeak()


def test_a_mark_that_ignores_the_reset_is_unknown(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t 900000 kB\nVmRSS:\t 500000 kB\n")
    monkeypatch.setattr(memory, "_STATUS", status)
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "clear_refs")
    meter = PeakMemory("cpu")
    meter.start()
    assert meter.stop() == MemoryPeak()


def test_a_cpu_has_no_neighbours_to_speak_of():
    assert gpu_is_shared("cpu") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_peak_is_that_of_the_allocator():
    meter = PeakMemory("cuda")
    meter.start()
    held = torch.cuda.memory_allocated()  # what others left behind was collected at the start
    torch.ones(64 * MIB // 4, device="cuda")
    peak = meter.stop()
    assert peak.allocated_bytes == held + 64 * MIB
    assert peak.reserved_bytes >= peak.allocated_bytes
    assert peak.process_bytes is None or peak.process_bytes >= peak.reserved_bytes


def test_steps_are_summed_up(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 23.0, 30.0, 34.0, 40.0, 50.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timer = StepTimer("cpu")
    for _ in range(5):
        with timer.step(8):
            pass
    summary = timer.summary()
    assert timer.last == 10.0
    assert (summary.steps, summary.tokens, summary.total_seconds) == (5, 40, 20.0)
    assert summary.median_seconds == 3.0
    assert summary.p90_seconds == pytest.approx(7.6)
    assert summary.tokens_per_second == 2.0


def test_nothing_timed_is_unknown_and_a_failed_step_is_nothing():
    timer = StepTimer("cpu")
    with pytest.raises(RuntimeError), timer.step(8):
        raise RuntimeError
    assert timer.summary().tokens_per_second is None
    with timer.step(8):
        pass
    timer.forget()
    assert timer.summary().steps == 0

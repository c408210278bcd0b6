"""One step of a method under PyTorch's profiler, as a page of text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from tta_bench.documents import TokenizedDocument
    from tta_bench.engine.loop import Engine

TOP = 12
"""The number of kernels that are listed by name."""

_LONGEST_NAME = 96

_CATEGORIES = (
    ("elementwise/triton", r"^triton_"),  # named after all that was fused into it
    ("attention", r"flash|fmha|attention|attn"),
    ("matmul", r"gemm|gemv|cutlass|xmma|nvjet|cublas|splitk|_mm$|::(b|add|badd|addb)?mm|matmul"),
    ("memory copy", r"memcpy|memset|copy|clone|catarray|::cat$|fill"),
    (
        "elementwise/triton",
        r"elementwise|triton|reduce|softmax|norm|index|gather|scatter|embedding|foreach|"
        r"multi_tensor|vectorized|::(add|sub|mul|div|neg|pow|sqrt|rsqrt|exp|log|silu|gelu|sin|cos|"
        r"mean|sum|nll_loss|masked|where|lerp|addcdiv|addcmul|sigmoid|tanh|max|min|arange)",
    ),
)
"""The first pattern that fits a kernel's name decides: a copy is an elementwise kernel too."""


def category(name: str) -> str:
    """The kind of a kernel: matmul, attention, elementwise/triton, memory copy or other."""
    lowered = name.lower()
    found = (kind for kind, pattern in _CATEGORIES if re.search(pattern, lowered))
    return next(found, "other")


def profiled_step(engine: Engine, documents: Sequence[TokenizedDocument]) -> str:
    """A page of text: time by category, the longest kernels, and the share the GPU stood idle.

    Args:
        engine: a warm engine with as many lanes as there are documents.
        documents: documents of two full chunks. The second step is profiled, from the end of the
            first, so that collating is included and resetting is not.
    """
    on_gpu = engine.device.type == "cuda"
    gpu = [ProfilerActivity.CUDA] if on_gpu else []
    profiler = profile(activities=[ProfilerActivity.CPU, *gpu])
    calls = 0

    def on_step(tokens: int, nll: float) -> None:
        nonlocal calls
        calls += 1  # once a lane
        if calls == len(documents):
            profiler.start()
        elif calls == len(documents) + 1:
            profiler.stop()

    for _ in engine.run(documents, on_step):
        pass
    spans = gpu_spans(profiler) if on_gpu else []
    times = times_of(spans) if on_gpu else _cpu_times(profiler)
    return _page(times, spans)


def gpu_spans(profiler: Any) -> list[tuple[str, float, float]]:
    """The name, start and end, in microseconds, of everything that ran on the GPU."""
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def times_of(spans: Iterable[tuple[str, float, float]]) -> dict[str, tuple[float, int]]:
    """The microseconds and the number of launches of each kernel, by name."""
    seconds: dict[str, float] = defaultdict(float)
    launches: Counter[str] = Counter()
    for name, start, end in spans:
        seconds[name] += end - start
        launches[name] += 1
    return {name: (seconds[name], launches[name]) for name in seconds}


def _cpu_times(profiler: Any) -> dict[str, tuple[float, int]]:
    """Microseconds of PyTorch's operations, without those they call, and how often they ran."""
    return {
        event.key: (float(event.self_cpu_time_total), int(event.count))
        for event in profiler.key_averages()
        if event.self_cpu_time_total > 0 and "ProfilerStep" not in event.key
    }


def idle_share(spans: Sequence[tuple[str, float, float]]) -> float | None:
    """The share of the time from the first kernel to the last in which no kernel ran."""
    if not spans:
        return None
    ordered = sorted((start, end) for _, start, end in spans)
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - ordered[0][0]
    return 1 - busy / whole if whole > 0 else None


def _page(times: dict[str, tuple[float, int]], spans: Sequence[tuple[str, float, float]]) -> str:
    total = sum(spent for spent, _ in times.values()) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for name, (spent, _) in times.items():
        kinds[category(name)] += spent
    lines = [f"{total / 1e3:.2f} ms in {'kernels' if spans else 'operations'}, one step"]
    idle = idle_share(spans)
    if idle is not None:
        lines.append(f"GPU idle between the first kernel and the last: {idle:.1%} (profiler on)")
    lines += ["", "     ms  share  category"]
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        lines.append(f"{spent / 1e3:7.2f} {spent / total:6.1%}  {kind}")
    lines += ["", "     ms  share  times  longest"]
    ranked = sorted(times.items(), key=lambda item: -item[1][0])[:TOP]
    for name, (spent, launches) in ranked:
        short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
        lines.append(f"{spent / 1e3:7.2f} {spent / total:6.1%} {launches:6d}  {short}")
    return "\n".join(lines)

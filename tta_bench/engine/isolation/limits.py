"""What a method in a process of its own cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.errors import UsageError

if TYPE_CHECKING:
    from tta_bench.engine.protocol import Protocol


def check_isolation(protocol: Protocol, compile: str) -> None:
    """Raises UsageError where methods cannot be isolated.

    Args:
        protocol: what is read and scored.
        compile: as `--compile` takes it.
    """
    if protocol.context_mode == "cache":
        raise UsageError(
            "--isolate does not go with --context-mode cache, whose keys the engine holds; use "
            "--context-mode recompute."
        )
    if compile == "on":
        raise UsageError(
            "--isolate does not go with --compile on, since losses are computed in another "
            "process than the model; leave one of them out."
        )

"""When and where a run was made: time, software, processor and device; no host or folder name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tta_bench.version import __version__

_DIGITS = (
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)
_PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "numpy")


def utc_now() -> str:
    """The time in UTC, in ISO 8601 with microseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def describe_software() -> dict[str, Any]:
    """Versions of tta-bench (with its commit in a checkout), Python and the main packages."""
    from importlib.metadata import PackageNotFoundError, version

    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    own = {"version": __version__, **checkout_state()}
    # Hashes of strings differ between processes unless this is set, and may order what is read.
    hashing = os.environ.get("PYTHONHASHSEED", "random")
    python = platform.python_version()
    return {"tta_bench": own, "python": python, "hash_seed": hashing, "packages": packages}


def precision_overrides() -> dict[str, str]:
    """Variables of the environment that are set and say with how many digits to compute."""
    return {name: os.environ[name] for name in _DIGITS if os.environ.get(name)}


def checkout_state() -> dict[str, Any]:
    """`commit` and `dirty` of the checkout that contains this package; None outside a checkout.

    Only changes of code and suites make a checkout dirty; changes of documentation do not.
    """
    root = Path(__file__).resolve().parents[2]
    unknown = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return unknown
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    sources = ("tta_bench", "methods", "suites", "pyproject.toml", "setup.py")
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--", *sources)
    if not commit or changes is None:
        return unknown
    return {"commit": commit, "dirty": bool(changes)}


def describe_platform(torch: Any = None) -> dict[str, Any]:
    """Operating system, machine, processor and number of cores, without the host name.

    Args:
        torch: the imported module. It adds the number of threads and the vector instructions in
            use, which on a CPU both change how sums are rounded.
    """
    described = {
        "os": f"{platform.system()} {platform.release().split('-')[0]}",
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        described["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return described


def _cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        name = _output("sysctl", "-n", "machdep.cpu.brand_string")
        return name or platform.processor() or None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def describe_device(device: str, torch: Any = None) -> dict[str, Any]:
    """The device's `type`; for a CUDA device also its name, memory, driver and CUDA version."""
    kind = device.split(":")[0]
    if kind != "cuda" or torch is None:
        return {"type": kind}
    properties = torch.cuda.get_device_properties(device)
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    driver = (_output(*query) or "").split("\n")[0]
    return {
        "type": kind,
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver or None,
        "cuda": torch.version.cuda,
    }


def _output(*command: str) -> str | None:
    """What a command prints; None if it is missing, fails, or takes more than five seconds."""
    # Inside a git hook, variables of the environment would point git at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=5, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

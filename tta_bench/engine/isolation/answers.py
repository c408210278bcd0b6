"""What comes back from an isolated method: numbers and words, and nothing that runs as code.

Python's own connection between processes unpickles what it receives, and unpickling can run any
code. So answers are JSON, and rows are plain bytes of a shape that the engine knows beforehand.
"""

from __future__ import annotations

import json
from multiprocessing import ProcessError
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from tta_bench.errors import MethodError

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16)}
_DTYPES[str(torch.float16)] = torch.float16


def send_answer(connection: Connection, answer: dict[str, Any], rows: Tensor | None = None) -> None:
    """Sends an answer, and rows [B, C, V] behind it.

    Raises:
        MethodError: the rows are of a dtype that no method returns.
        TypeError: the answer holds what JSON cannot say.
    """
    if rows is not None:
        if str(rows.dtype) not in _DTYPES:
            raise MethodError(
                f"score returned {rows.dtype}; scores must be floating-point numbers."
            )
        answer = {**answer, "dtype": str(rows.dtype)}
    text = json.dumps(answer, default=_number).encode()
    connection.send_bytes(text)
    if rows is not None:
        connection.send_bytes(_bytes(rows.detach().cpu().contiguous()))


def receive_answer(connection: Connection) -> dict[str, Any]:
    """The next answer.

    Raises:
        EOFError: the other end is gone.
        ValueError: it is no answer.
    """
    answer = json.loads(connection.recv_bytes())
    if not isinstance(answer, dict):
        raise ValueError("no JSON object")
    return answer


def receive_rows(connection: Connection, dtype: object, shape: tuple[int, int, int]) -> Tensor:
    """The rows [B, C, V] behind an answer, on the CPU.

    Raises:
        EOFError: the other end is gone.
        ValueError: they have another size.
    """
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError("rows of an unknown dtype")
    rows = torch.empty(shape, dtype=_DTYPES[dtype])
    try:
        size = connection.recv_bytes_into(_bytes(rows))
    except ProcessError as error:
        raise ValueError("too many rows") from error
    if size != rows.numel() * rows.element_size():
        raise ValueError("too few rows")
    return rows


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _number(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's own."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is neither a number nor words.")

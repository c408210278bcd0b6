"""`tta_bench.train`: offline training of a method's slow weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.contract.registry import add_plugin
from tta_bench.convert import Converter
from tta_bench.errors import UsageError
from tta_bench.extras import require
from tta_bench.library.given import known_class, named_documents, named_model
from tta_bench.library.session import session
from tta_bench.training.folder import WEIGHTS
from tta_bench.training.recipe import make_recipe
from tta_bench.training.train import train as run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tta_bench.contract.method import Method
    from tta_bench.library.given import Documents, Model
    from tta_bench.library.options import Schedule

_COMMAND = "evaluate it with: "
"""How the line of the command `train` begins that says what to type next."""


class Trained:
    """What a training made: a folder with weights, a log and the facts.

        trained = tta_bench.train("fwl", "builtin:stdlib", steps=500)
        tta_bench.evaluate("builtin:tiny", "builtin:pydoc", ["none", trained.spec])

    Attributes:
        folder: where everything is; without an `output` it goes when this object does.
        facts: the recipe, and what the training took.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        facts: dict[str, Any],
        scratch: tempfile.TemporaryDirectory[str] | None = None,
    ):
        self.folder = folder
        self.facts = facts
        self._name = name
        self._scratch = scratch

    @property
    def weights(self) -> Path:
        """The file of slow weights, which a method takes as `weights=FILE`.

        Raises:
            UsageError: the body alone was trained; `folder` is then a model.
        """
        file = self.folder / WEIGHTS
        if not file.is_file():
            raise UsageError(f"the body alone was trained; {self.folder} is a model to evaluate.")
        return file

    @property
    def spec(self) -> str:
        """The method with these weights, as `evaluate` takes it."""
        return f"{self._name}:weights={self.weights}"

    def __repr__(self) -> str:
        return f"<Trained: {self._name} in {self.folder}>"


def train(
    method: str | type[Method],
    documents: Documents,
    *,
    base: Model = "builtin:tiny",
    tokenizer: Any = None,
    body: Literal["frozen", "joint", "scratch"] = "frozen",
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    plugins: Sequence[str | os.PathLike[str]] = (),
    quiet: bool = False,
    **schedule: Unpack[Schedule],
) -> Trained:
    """Trains the slow weights of a method, as `tta-bench train` does.

        trained = tta_bench.train("fwl:rates=2", texts, base=(model, tokenizer), steps=200)
        trained.facts["training"]["tokens"]

    A base in memory is copied, and the copy trained. The same call with an `output` goes on from
    the last checkpoint.

    Args:
        method: the method with options of its slow weights as NAME or NAME:key=value,..., or its
            class; `none` trains the body alone.
        documents: texts to train on, as `evaluate` takes them.
        base: the base model, as `evaluate` takes it.
        tokenizer: the tokenizer of a base in memory.
        body: whether the base's body is kept, trained too, or trained from fresh weights.
        output: folder for log and weights; None: one that goes when what is returned does.
        device: `auto`, `cuda`, `mps` or `cpu`.
        plugins: Python files that register methods.
        quiet: say nothing.
        schedule: what `Schedule` lists: steps, minutes, lanes, segment, learning rate.

    Raises:
        UsageError: the method cannot be trained this way, an option is unknown, or `output` holds
            something else.
        MethodError: the method has no slow weights.
        BenchError: base or texts cannot be had.
    """
    require("accelerate", extra="train", what="training")
    for file in plugins:
        add_plugin(Path(file))
    scratch = tempfile.TemporaryDirectory(prefix="tta-bench-") if output is None else None
    folder = Path(output or "." if scratch is None else scratch.name)
    with ExitStack() as held:
        spec = method if isinstance(method, str) else held.enter_context(known_class(method))
        name = spec.partition(":")[0]
        recipe = make_recipe(
            {
                "name": name,
                "method": spec,
                "base": held.enter_context(named_model(base, tokenizer, share=False)),
                "body": body,
                "dataset": held.enter_context(named_documents(documents)),
                "train": dict(schedule),
            },
            {},
            Converter("the options", noun="option"),
        )
        progress = held.enter_context(session(quiet))

        def say(line: str) -> None:
            if not line.startswith(_COMMAND):  # a command cannot name what is in memory
                progress.remark(line)

        facts = run(recipe, folder, device, say)
    return Trained(name, folder, facts, scratch)

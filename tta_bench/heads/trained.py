"""`TrainedMethod`: the choice and the loading of slow weights, for every method that has them."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from tta_bench.contract.method import Method
from tta_bench.errors import MethodError, UsageError
from tta_bench.heads.slow_weights import SlowWeights
from tta_bench.heads.stream import HeadMethod
from tta_bench.model.language_model import LanguageModel
from tta_bench.plugin_file import plugin_of

NAMES = ("trained", "control", "random")
"""Values of `weights` that are no files."""


@dataclass
class SlowOptions:
    """How slow weights are made; what `tta-bench train NAME:key=value` sets.

    A method's own options derive from it.
    """

    fast: bool = field(
        default=True, metadata={"help": "no: the control of the same size, which does not adapt"}
    )


class TrainedMethod(Method):
    """Loads slow weights, from those that come with the method or from a file.

    A subclass defines `slow_weights` and `use`, and `Slow` where its weights have options.
    """

    Slow: ClassVar[type[SlowOptions]] = SlowOptions

    weights_folder: ClassVar[Path | None] = None
    """Where the weights lie that come with the method."""

    off: ClassVar[dict[str, object]] = {}
    """No setting makes a trained module vanish: what it learned offline remains."""

    @dataclass
    class Params:
        """What is loaded."""

        weights: str = field(
            default="trained",
            metadata={
                "help": "a file of tta-bench train, or those that come with the bench for this "
                "model: trained, control (same size, does not adapt); random: only for checks"
            },
        )

    @classmethod
    def probe_params(cls, params: Any) -> Any:
        return dataclasses.replace(params, weights="random")  # trained ones fit no random model

    @classmethod
    def artifacts(cls, params: Any, model: LanguageModel) -> dict[str, str]:
        file = cls.weights_file(params.weights, model)
        return {} if file is None else {"weights": SlowWeights.digest(file)}

    @classmethod
    def random_weights(cls, model: LanguageModel) -> nn.Module:
        """Weights for checks, such that a probe sees what the module does.

        Modules begin training as nothing, with a gate or a kernel of zeros. Here vectors and
        scalars get noise of unit size, and so do kernels of zeros, over the root of their width.
        """
        module = cls.slow_weights(model, cls.Slow())
        assert module is not None
        for value in module.parameters():
            if value.dim() < 2:
                value.add_(torch.randn_like(value))
            elif not value.any():
                value.normal_(std=value.shape[-1] ** -0.5)
        return module

    @classmethod
    def weights_file(cls, weights: str, model: LanguageModel) -> Path | None:
        """The file that `weights` names; None for random ones.

        Raises:
            UsageError: there is none, or it is of another method or base.
        """
        if weights == "random":
            return None
        if weights not in NAMES:
            file = Path(os.path.expanduser(weights))
            if not file.is_file():
                raise UsageError(
                    f"{cls.name}: there is no file {weights}; give one of tta-bench train "
                    f"{cls.name}, or trained or control for those that come with the bench."
                )
            SlowWeights.describe_for(file, cls.name, model)
            return file
        shipped = [] if cls.weights_folder is None else cls.weights_folder.glob("*.safetensors")
        for file in sorted(shipped):
            about = SlowWeights.describe(file)
            if about.method != cls.name or not about.fits(model):
                continue
            if cls.Slow(**about.options).fast == (weights == "trained"):
                return file
        raise UsageError(
            f"{cls.name}: no {weights} weights for {model.name} come with the bench; make some "
            f"with {cls._train_command(model, weights)} and name the file it writes, with "
            "weights=FILE."
        )

    @classmethod
    def _train_command(cls, model: LanguageModel, weights: str) -> str:
        """A command that trains such weights of this method, trained or control, for a model.

        It trains on other text than `builtin:pydoc`, which is evaluated by default.
        """
        method = cls.name if weights == "trained" else f"{cls.name}:fast=no"
        command = f"tta-bench train {method} --base {model.name} --dataset builtin:stdlib"
        plugin = plugin_of(cls.__module__)
        return command if plugin is None else f"{command} --plugin {plugin}"

    def prepare(self) -> None:
        file = self.weights_file(self.params.weights, self.model)
        if file is None:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)  # the same at every call
                self.use(self.random_weights(self.model))
            return
        found = SlowWeights.load(file, self.name, self.model)
        module = self.slow_weights(self.model, self.Slow(**found.options))
        assert module is not None
        module.load_state_dict(found.tensors)
        self.offline_flops = found.training_flops
        self.offline_seconds = found.training_seconds
        if found.body:
            self.model = self.model.with_weights(found.body)
        self.use(module)

    def use(self, module: Any) -> None:
        """Takes the module with its weights into service."""
        raise MethodError(f"{type(self).__name__} does not define use(module).")


class TrainedHead(HeadMethod, TrainedMethod):
    """A trained head. A subclass defines `slow_weights(model, slow)`, which returns a `Head`."""

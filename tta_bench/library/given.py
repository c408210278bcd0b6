"""What a caller hands in, as the names and choices that jobs are made of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method import Method
from tta_bench.contract.registry import available, held_method, is_held, load
from tta_bench.contract.spec import build
from tta_bench.contract.stack import Stack
from tta_bench.documents import dataset_names
from tta_bench.documents.memory import MEMORY, held_documents
from tta_bench.errors import UsageError
from tta_bench.evaluation.plan import all_different, choose_methods
from tta_bench.model.memory import held_model
from tta_bench.store.tuning import Tuning

if TYPE_CHECKING:
    from typing import Protocol

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    class Params(Protocol):
        """An instance of a dataclass."""

        __dataclass_fields__: ClassVar[dict[str, Any]]

    Model: TypeAlias = (
        str | os.PathLike[str] | PreTrainedModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]
    )
    Documents: TypeAlias = str | os.PathLike[str] | Sequence[str] | Mapping[str, str] | Dataset
    OneMethod: TypeAlias = str | type[Method] | Params | Tuning
    Methods: TypeAlias = OneMethod | Sequence[OneMethod]

_LONGEST_SPEC = 1000  # characters
_ISOLATED = "isolate=True reads {} by its name in a process of its own; name a {} or leave it out."


@contextmanager
def named_model(model: Model, tokenizer: Any = None, share: bool = True) -> Iterator[str]:
    """The name of a model, which `load_model` takes inside the block.

    Args:
        model: a spec, a model of transformers, or such a model and its tokenizer.
        tokenizer: the tokenizer of a model in memory, unless it comes with it.
        share: whether the weights in memory are only read.

    Raises:
        UsageError: a spec with a tokenizer in memory.
        ModelError: a model that cannot be measured.
    """
    if isinstance(model, (str, os.PathLike)):
        if tokenizer is not None:
            raise UsageError("a tokenizer in memory goes with a model in memory; name its folder.")
        yield os.fspath(model)
        return
    if isinstance(model, tuple):
        if len(model) != 2 or tokenizer is not None:
            raise UsageError("write model=(model, tokenizer), with nothing else in it.")
        model, tokenizer = model
    with held_model(model, tokenizer, share) as name:
        yield name


def tokenizer_spec(model: Model, tokenizer: Any) -> tuple[str | None, Any]:
    """A tokenizer that is named, to be loaded for a spec, and the one of a model in memory."""
    if isinstance(model, (str, os.PathLike)) and isinstance(tokenizer, (str, os.PathLike)):
        return os.fspath(tokenizer), None
    return None, tokenizer


@contextmanager
def named_documents(documents: Documents, text_column: str | None = None) -> Iterator[str]:
    """The name of documents, which `open_source` takes inside the block.

    Raises:
        UsageError: a text where a spec was expected, or the other way round.
        DocumentError: documents in memory that are not texts.
    """
    if isinstance(documents, (str, os.PathLike)):
        spec = os.fspath(documents)
        if "\n" in spec or len(spec) > _LONGEST_SPEC:
            raise UsageError(
                "documents is one text, and one string names a dataset; put texts in a list: "
                "documents=[text]."
            )
        yield spec
        return
    if isinstance(documents, (list, tuple)):
        for spec in documents:
            if isinstance(spec, str) and spec in dataset_names():
                raise UsageError(
                    f"'{spec}' names a dataset, and a list holds texts; write documents='{spec}'."
                )
    with held_documents(documents, text_column) as name:
        yield name


def tuned_methods(methods: Methods) -> tuple[dict[str, Tuning], Methods]:
    """The choices of `tune` among methods, by their specs, and the methods with those specs."""
    several = isinstance(methods, Sequence) and not isinstance(methods, str)
    given: list[Any] = list(methods) if several else [methods]  # type: ignore[arg-type]
    tuned = {one.chosen: one for one in given if isinstance(one, Tuning)}
    return tuned, [one.chosen if isinstance(one, Tuning) else one for one in given]


@contextmanager
def chosen_methods(methods: Methods) -> Iterator[list[MethodChoice]]:
    """The methods, whose classes are known by name inside the block.

    Raises:
        UsageError: none is given, one is unknown, given twice, or no method at all.
        MethodError: a class is no complete method.
    """
    several = isinstance(methods, Sequence) and not isinstance(methods, str)
    given: list[Any] = list(methods) if several else [methods]  # type: ignore[arg-type]
    if not given:
        raise UsageError("no method is given; give at least one, such as 'none'.")
    with ExitStack() as held:
        # Classes first: a stack may then name them.
        classes = [None if isinstance(one, str) else _class_of(one) for one in given]
        names = [None if cls is None else held.enter_context(known_class(cls)) for cls in classes]
        choices: list[MethodChoice] = []
        for one, name, cls in zip(given, names, classes, strict=True):
            if cls is None or name is None:
                choices += choose_methods([one])
            else:
                params = build(cls.Params, {}, name) if isinstance(one, type) else one
                choices.append(MethodChoice(name, cls, params))
        yield all_different(choices)


def refuse_isolated(model: str, choices: Sequence[MethodChoice]) -> None:
    """Raises UsageError for what another process could not find by its name."""
    if model.startswith(MEMORY):
        raise UsageError(_ISOLATED.format("the model", "model"))
    for choice in choices:
        if any(map(is_held, choice.name.split("+"))):
            raise UsageError(_ISOLATED.format(f"the method '{choice.name}'", "registered method"))


def _class_of(given: Any) -> type[Method]:
    """The class of a method that is given as a class or as an instance of its `Params`."""
    if isinstance(given, type) and issubclass(given, Method):
        return given
    if isinstance(given, type) or not is_dataclass(given):
        what = given.__name__ if isinstance(given, type) else type(given).__name__
        raise UsageError(
            "a method is a spec, a class derived from tta_bench.Method or an instance of its "
            f"Params, not {what}."
        )
    kind: type[Any] = type(given)
    every = [cls for cls in _derived(Method) if cls.Params is kind and not issubclass(cls, Stack)]
    around = f"{kind.__module__}.{kind.__qualname__.rpartition('.')[0]}"
    defining = [cls for cls in every if f"{cls.__module__}.{cls.__qualname__}" == around]
    found = defining or every
    if len(found) != 1:
        names = ", ".join(sorted(cls.__name__ for cls in found)) or "no method"
        raise UsageError(
            f"{kind.__qualname__} is the Params of {names}; give a spec, such as NAME:key=value."
        )
    return found[0]


def _derived(cls: type[Method]) -> list[type[Method]]:
    """Every class below a class."""
    below = cls.__subclasses__()
    return [*below, *(other for one in below for other in _derived(one))]


@contextmanager
def known_class(cls: type[Method]) -> Iterator[str]:
    """The name of a class, under which the registry finds it inside the block.

    Raises:
        UsageError: it is no method, or another method has its name.
        MethodError: it is no complete method.
    """
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        kind = cls.__name__ if isinstance(cls, type) else type(cls).__name__
        raise UsageError(f"a class derived from tta_bench.Method or a spec is needed, not {kind}.")
    name = vars(cls).get("name") or _kebab(cls.__name__)
    if not is_held(name) and name in available() and load(name) is cls:
        yield name
        return
    with held_method(name, cls):
        before = vars(cls).get("name")
        cls.name = name
        try:
            yield name
        finally:
            if before is None:
                del cls.name


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower().replace("_", "-")

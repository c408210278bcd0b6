"""How a model is loaded, beside its name, dtype and device; this module loads without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tta_bench.errors import UsageError

ADAPTERS = ("auto", "merged", "beside")
"""What becomes of an adapter: added into the weights of its base, or kept as modules of its own."""

PRECISIONS = ("4bit", "8bit")
DEVICE_MAPS = ("auto",)


@dataclass(frozen=True)
class Loading:
    """What the command line says of how a model is loaded.

    Attributes:
        tokenizer: the model whose tokenizer is used, as `--model` takes it; None: its own.
        adapter: one of `ADAPTERS`; of no meaning to a model that is none. `auto` is `merged`, and
            `beside` on a base that is held in few bits, which merging would round again.
        load_in: one of `PRECISIONS`; None: in the dtype of the run.
        device_map: `auto` spreads a model over all GPUs; None: it has one device.

    Raises:
        UsageError: a value that is none of these.
    """

    tokenizer: str | None = None
    adapter: str = "auto"
    load_in: str | None = None
    device_map: str | None = None

    def __post_init__(self) -> None:
        _check("--adapter", self.adapter, ADAPTERS)
        _check("--load-in", self.load_in, (None, *PRECISIONS))
        _check("--device-map", self.device_map, (None, *DEVICE_MAPS))
        if self.load_in and self.adapter == "merged":
            raise UsageError(
                f"--adapter merged would round the adapter to the base's {self.load_in[0]} bits; "
                "use --adapter beside."
            )

    def refuse_where(self, why: str) -> None:
        """Raises UsageError where a model that is not loaded is to be loaded in some way."""
        given = [f"--{name.replace('_', '-')}" for name in LOADING if self._given(name)]
        if given:
            raise UsageError(f"{why} and not loaded: leave out {' and '.join(given)}.")

    def _given(self, name: str) -> bool:
        return name != "adapter" and getattr(self, name) is not None


LOADING = tuple(field.name for field in fields(Loading))
"""The names of the options, which a suite has, too."""

ModelKey = tuple[str, str, str, bool, Loading]
"""What `load_model` takes: the model, dtype, device, whether its own code may run, and the rest."""


def _check(flag: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        words = ", ".join(word for word in known if word is not None)
        raise UsageError(f"{flag} must be one of {words}, not '{value}'.")


PLAIN = Loading()
"""As a model is loaded where nothing is said."""

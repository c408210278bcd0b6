"""The model inside the package: small, loadable, and a real language model."""

import re
from pathlib import Path

import torch

import tta_bench
from tta_bench.model.load import load_model

FOLDER = Path(tta_bench.__file__).parent / "data" / "tiny"


def test_it_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8 * 2**20
    assert not list(FOLDER.glob("*.bin"))


def test_its_held_out_loss_beats_xz_in_every_domain():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\w+) \|(?: [\d,.]+ \|){4} ([\d.]+) \| ([\d.]+) \|$", card, re.MULTILINE
    )
    assert {name for name, _, _ in rows} == {"books", "manuals", "rst", "python", "all"}
    assert all(float(model) < float(xz) for _, model, xz in rows)


def test_it_predicts_english_and_python():
    """Its card says 1.6 nats a token on Python; text that nobody wrote is near log V = 8.3."""
    model = load_model("builtin:tiny", device="cpu")
    assert model.max_positions == 1024
    assert 3e6 < sum(value.numel() for value in model.net.parameters()) < 4e6
    text = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    ids = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    assert model.net(ids, labels=ids).loss < 3.5
    assert model.tokenizer.decode(ids[0, 1:]) == text

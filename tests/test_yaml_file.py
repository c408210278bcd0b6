"""YAML files: lines of values, numbers with exponents, and keys that stand twice."""

import pytest

from tta_bench.errors import UsageError
from tta_bench.yaml_file import read_yaml

TEXT = """
base: &base
  rate: 1e-3
  steps: 3
train:
  <<: *base
  steps: 4
parts:
  - {name: a}
  - name: b
"""


def written(folder, text):
    path = folder / "f.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_value_has_its_line(tmp_path):
    raw, line = read_yaml(written(tmp_path, TEXT), "the file")
    assert raw["train"] == {"rate": 1e-3, "steps": 4}
    assert line(("train",)) == 5
    assert line(("train", "steps")) == 7
    assert line(("train", "rate")) == 3  # where it is merged from
    assert line(("parts", 1, "name")) == 10
    assert line(("parts", 0, "nothing")) == 9  # the nearest there is
    assert line(("nothing",)) is None


@pytest.mark.parametrize("text", ["a: {x: 1, x: 2}", "b: [{x: 1,\n x: 2}]"])
def test_a_repeated_key_is_refused_wherever_it_stands(tmp_path, text):
    with pytest.raises(UsageError, match=r"line [12]: 'x' stands in line 1 already"):
        read_yaml(written(tmp_path, text), "the file")


def test_a_few_lines_that_stand_for_gigabytes_are_read_at_once(tmp_path):
    lines = ["a0: &a0 [1, 1]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)
    ]
    raw, line = read_yaml(written(tmp_path, "\n".join(lines)), "the file")
    assert len(raw) == 40
    assert line(("a39", *[0] * 40)) == 1

"""`--sort` takes what the table shows: headings, in any case, and beginnings that are unique."""

from __future__ import annotations

import pytest

from tta_bench.errors import UsageError
from tta_bench.format import BREAK
from tta_bench.tables import Column, Table
from tta_bench.tables.sorting import sorted_table

KEYS = (
    *("perplexity", "perplexity_ratio", "flops_per_token", "tokens_per_second"),
    *("peak_process_bytes", "flops_per_token_counted", "nll"),
)
TABLE = Table(
    "t",
    [
        Column("method", "method", left=True),
        Column("perplexity", "perplexity", better="lower"),
        Column("perplexity_ratio", f"perplexity {BREAK}ratio", better="lower"),
        Column("flops_per_token", f"FLOPs/{BREAK}token", better="lower"),
        Column("tokens_per_second", f"tokens{BREAK}/s", better="higher"),
        Column("peak_process_bytes", f"peak {BREAK}memory", f"GiB {BREAK}process"),
        Column("flops_per_token_counted"),
        Column("nll"),
    ],
    [
        {"method": "c", **dict(zip(KEYS, (3.0, 1.0, 5, 10, 7, 1, 2.0), strict=True))},
        {"method": "a", **dict(zip(KEYS, (1.0, 2.0, 9, 30, 8, 3, 1.0), strict=True))},
        {"method": "b", **dict(zip(KEYS, (2.0, 3.0, 1, 20, 9, 2, 3.0), strict=True))},
    ],
)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("flops", "bca"),
        ("FLOPs/token", "bca"),
        ("flops/TOKEN", "bca"),
        ("flops_per_token", "bca"),
        ("flops_per_token_counted", "cba"),
        ("perplexity", "abc"),
        ("perplexity ratio", "cab"),
        ("tokens/s", "abc"),
        ("tok", "abc"),
        ("peak memory", "cab"),
        ("peak memory GiB process", "cab"),
        (" Peak ", "cab"),
        ("nll", "acb"),
        ("method", "abc"),
    ],
)
def test_a_column_by_any_of_its_names(name: str, order: str) -> None:
    table = sorted_table(TABLE, name)
    assert "".join(row["method"] for row in table.rows) == order
    assert [column.keep for column in table.columns].count(True) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("perp", "--sort 'perp' is more than one column: perplexity, perplexity ratio."),
        (
            "perplexty",
            "--sort 'perplexty' is no column; did you mean 'perplexity'? The table shows",
        ),
        ("token/s", "did you mean 'tokens/s'?"),
        ("beauty", "--sort 'beauty' is no column; the table shows method, perplexity,"),
        ("", "is no column; the table shows"),
    ],
)
def test_a_wrong_name_gets_the_headings_of_the_table(name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        sorted_table(TABLE, name)
    assert sentence in str(caught.value)
    assert "counted" not in str(caught.value)
    assert "_" not in str(caught.value)

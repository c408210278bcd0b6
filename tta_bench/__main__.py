"""`python -m tta_bench`."""

from tta_bench.cli.main import run

run()

"""How many points Optuna tries; apart, so that `--help` loads no search."""

TRIALS = 40
"""The first ten points of the sampler are random; the others follow from those before."""

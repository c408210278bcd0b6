"""Generative Adapter: low-rank weights of o_proj that finished chunks write by forward passes.

`directions` is the normalisation of what was written, with its derivative, `adapter` one output
projection with its slow weights and its state, and `method` puts adapters on a model.
"""

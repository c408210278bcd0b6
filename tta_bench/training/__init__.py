"""Offline training: the embedded language model, from a committed recipe."""

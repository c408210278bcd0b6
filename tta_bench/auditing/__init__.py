"""The audit: the rules of the game, held against a method on the real model and real documents.

Probes (`tta_bench.validity`) try a method on tiny random models before it runs. The audit looks at
the run itself: the same model, documents, chunk and lanes. Both together say whether a row is
valid.
"""

"""The audit: the rules of the game, held against a method on the real model and the real documents.

Probes (`tta_bench.validity`) try a method on tiny random models before it runs. The audit looks at
the run itself: the same model, documents, chunk and lanes. Together they say whether a row is valid.
"""

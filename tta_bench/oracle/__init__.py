"""Streams of symbols whose best possible reader is known, and the losses of that reader.

Pure numpy: no text, no tokenizer, no model. `tta_bench.documents.oracle` turns symbols into tokens.
"""

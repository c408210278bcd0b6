"""Compressed Context Memory: a few tokens keep a chunk's keys and values in place of its own.

`slots` says which keys are kept, `reading` reads on from keys with their gradients, `writer` is the
part of the model that COMP tokens pass through, `module` what is trained, and `method` what reads
documents.
"""

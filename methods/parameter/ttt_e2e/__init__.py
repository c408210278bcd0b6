"""TTT-E2E: MLPs of the last blocks that take a gradient step on every chunk.

`prime` is such an MLP, `descent` its step, `places` says where in a block it stands, `layers` is
the module that is trained, and `method` what reads documents.
"""

"""TinT: one step on the summed loss of a block's prefix, then the rest of the block.

`method` is the method, `blocks` makes blocks of a stream, `tensors` says what is updated at which
rate, and `backward` passes gradients through a model as the authors' transformer does.
"""

"""Head methods: a block between the body and the unembedding, with a state for each lane.

A method belongs here if it reads hidden states and hands changed ones to the unembedding, such as
fast weight layers or a delta rule. The body runs once a chunk and is never differentiated. Slow
weights come from `tta-bench train`, or are set by hand.
"""

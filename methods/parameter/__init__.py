"""Parameter methods: they change a subset of the model's own weights, for each lane apart.

A method belongs here if the model reads the next chunk with other weights (full ones or low-rank
adapters), such as dynamic evaluation. The shared weights stay as they are: changed ones are passed
to the model by name.
"""

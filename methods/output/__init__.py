"""Output methods: they mix into the distribution after the softmax.

A method belongs here if it takes the scores of what stands below it (`self.below.score(window)`)
and returns others, such as a cache of earlier tokens or a nearest-neighbour memory. It may read the
hidden states of those scores, and changes neither them nor the model's weights.
"""

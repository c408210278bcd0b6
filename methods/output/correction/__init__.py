"""Two corrections of the output, learned entry by entry (ours, after ADCSD).

`parts` divides distributions into a trend and what departs from it, corrects both and sums up what
a chunk says of the corrections; `step` is what they learn from those sums, and `method` the stream.
"""

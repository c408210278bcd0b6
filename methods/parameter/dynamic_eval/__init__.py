"""Dynamic evaluation: gradient steps on the text just read.

`method` is the method and `options` what can be chosen. `subsets` and `low_rank` say which weights
it changes, `token_weights` which tokens count, `rules` holds the update rules and `step` applies
one to all lanes at once; `offline` is what is known of other text.
"""

"""Dynamic evaluation: gradient steps on the text just read.

`method` is the method, `subsets` says which weights it changes, `rules` holds the update rules and
`step` applies one to all lanes at once.
"""

"""Context methods: they change which of the text left of the chunk the model sees, and how.

A method belongs here if it gives the frozen model other inputs than the protocol does (a wider
window, other keys and values) and learns nothing. They are the controls that adaptation is held
against at equal cost.
"""

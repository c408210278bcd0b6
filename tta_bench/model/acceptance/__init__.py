"""The trial of a model that was loaded: whether it has what the protocol relies on."""

"""Names of documents that are drawn; apart from all else, since how they are drawn needs numpy."""

PREFIX, PLANTED = "oracle:", "planted:"


def is_oracle(spec: object) -> bool:
    """Whether a dataset spec names a stream whose best reader is known."""
    return isinstance(spec, str) and spec.startswith(PREFIX)


def is_planted(spec: object) -> bool:
    """Whether a dataset has sentences planted in its texts."""
    return isinstance(spec, str) and spec.startswith(PLANTED)


def control_of(key: str) -> str:
    """The key of the document in which nothing was told that the document of this key asks for."""
    return f"{key} (control)"

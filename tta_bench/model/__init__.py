"""Language models as methods see them: a window in, hidden states and scores out."""

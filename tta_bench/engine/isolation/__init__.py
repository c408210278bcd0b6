"""Methods in a process of their own, which never holds the targets of the chunk that it scores."""

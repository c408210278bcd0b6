"""The block that all trained memories share, and what a memory is."""

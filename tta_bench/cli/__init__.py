"""The command line, one file a command; PyTorch is imported inside commands only."""

"""`regression`: test-time regression from hidden states to errors."""

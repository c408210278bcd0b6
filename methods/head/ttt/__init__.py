"""`ttt-linear` and `ttt-mlp`: test-time training layers as trained heads."""

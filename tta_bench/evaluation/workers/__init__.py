"""Workers that share the documents of runs: one pool of them, in processes here or on a cluster."""

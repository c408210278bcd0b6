"""`knn-adapter`: `gate` is the net, `module` mixes and is trained, `method` reads documents."""

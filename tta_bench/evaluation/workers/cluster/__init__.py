"""Workers on a Ray cluster: long-lived actors, one a GPU, or so many on CPUs."""

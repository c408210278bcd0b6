"""Workers on this machine: one process a GPU, or so many on CPUs."""

"""Fetching: packages from public registries, and whether there is a network at all."""

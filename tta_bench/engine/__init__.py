"""Reads documents through a method: protocol, streams, the step, the loop around it, trials."""

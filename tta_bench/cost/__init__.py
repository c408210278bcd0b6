"""What a run costs: FLOPs (by formula, and counted as a check), memory and time."""

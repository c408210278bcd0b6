"""What a run costs: FLOPs (formulas, and the counter that checks them), memory, time."""

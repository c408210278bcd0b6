"""Down projections written by forward passes alone (In-Place TTT)."""

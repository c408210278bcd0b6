"""How fast methods run beside plain transformers: the measurements behind `tta-bench speed`.

`measure` runs everything on one device and gives rows; `figures` derives ratios from rows, `table`
shows them and `store` keeps them. The last three know no PyTorch.
"""

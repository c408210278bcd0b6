"""The bench as a library: the commands as functions that take and give objects of Python.

    import tta_bench

    results = tta_bench.evaluate("builtin:tiny", "builtin:pydoc", ["none", "dynamic-eval"])
    results.frame()

They run the code that the commands run; docs/library.md is their page.
"""

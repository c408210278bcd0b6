"""The built-in methods, one file each; installed as `tta_bench_methods`.

Each is registered through the entry-point group `tta_bench.methods`, as a third party's package
would do it, and imports only the public names of `tta_bench`.
"""

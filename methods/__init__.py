"""The built-in methods by family, one file or one folder each; installed as `tta_bench_methods`.

A file dropped in here whose class carries `@register("name")` is a method at once; nothing else has
to be changed. Methods import the public names of `tta_bench` and `tta_bench.heads` alone, as a
third party's package must. `none`, which every method is compared with, belongs to no family.
"""

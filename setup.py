"""Finds the packages; everything else about the build is in pyproject.toml.

The folders `methods/` and `suites/` stand at the top of the checkout, where people look for them,
and are installed as `tta_bench_methods` and `tta_bench_suites`, so that nothing with a common name
lands at the top of site-packages. pyproject.toml can either rename folders or discover packages,
not both, hence these lines.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "tta_bench": "tta_bench",
    "tta_bench_methods": "methods",
    "tta_bench_suites": "suites",
}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for top, folder in FOLDERS.items()
        for name in (top, *(f"{top}.{inner}" for inner in find_packages(folder)))
    ],
)

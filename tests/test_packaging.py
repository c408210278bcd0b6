"""The package as users get it: from a wheel and in editable mode, outside the checkout."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PathDistribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from slow import slow

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = {"tta_bench": "tta_bench", "methods": "tta_bench_methods", "suites": "tta_bench_suites"}
METHODS = {"none", "dynamic-eval", "fwl", "fwl-untrained", "neural-cache", "window"}

# Runs without `site`, so that whatever the test environment has installed in editable mode stays
# out of the way, and reports what an interpreter finds with the packages in argv[1].
PROBE = """
import importlib, importlib.util, json, site, sys
target, dependencies = sys.argv[1], sys.argv[2:]
sys.path.insert(0, target)
sys.path.extend(dependencies)
site.addsitedir(target)
from importlib.resources import files
from tta_bench.contract.registry import available
found = {info.name: str(info.file) for info in available().values()}
suites = files("tta_bench_suites")
print(json.dumps({
    "packages": {
        name: importlib.import_module(name).__file__
        for name in ("tta_bench", "tta_bench_methods", "tta_bench_suites")
    },
    "common names": [n for n in ("methods", "suites") if importlib.util.find_spec(n)],
    "methods": found,
    "suites": sorted(path.name for path in suites.iterdir() if path.name.endswith(".yaml")),
    "training recipes": sorted(path.name for path in suites.joinpath("train").iterdir()),
    "torch": "torch" in sys.modules,
}))
"""

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.extend(sys.argv[2:])
from tta_bench.contract.registry import available, load
from tta_bench.contract.source import source_files
for name, info in available().items():
    assert load(name).family == info.family, name
    print(name, *sorted(source_files(load(name))))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build reads, copied: a build must leave nothing behind in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--target", target, wheel)
    return target


@slow
def test_wheel_holds_every_file_and_no_common_name(wheel: Path, sources: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{package}/{path.relative_to(sources / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (sources / folder).rglob("*")
        if path.is_file()
    }
    assert not expected - names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(FOLDERS.values())
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@slow
def test_everything_is_found_from_a_wheel(installed: Path, tmp_path: Path) -> None:
    seen = _probe(installed, tmp_path)
    assert all(Path(file).is_relative_to(installed) for file in seen["packages"].values())
    assert all(Path(file).is_relative_to(installed) for file in seen["methods"].values())
    _check(seen)
    assert "tta_bench.cli.main:run" in (
        next(installed.glob("*.dist-info")).joinpath("entry_points.txt").read_text()
    )


def test_everything_is_found_in_editable_mode(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    _pip("install", "--no-deps", "--no-build-isolation", "--target", target, "--editable", sources)
    # A file dropped into methods/ after the installation is a method at once.
    dropped = sources / "methods" / "dropped_in.py"
    dropped.write_text(
        "from tta_bench import Method, register\n\n"
        '@register("dropped-in")\nclass DroppedIn(Method):\n    """Found without a reinstall."""\n'
    )
    try:
        seen = _probe(target, tmp_path)
    finally:
        dropped.unlink()
    assert seen["packages"] == {
        package: str(sources / folder / "__init__.py") for folder, package in FOLDERS.items()
    }
    assert seen["methods"].pop("dropped-in") == str(dropped)
    _check(seen)


@slow
def test_a_method_of_another_package_is_found_by_its_entry_point(
    installed: Path, tmp_path: Path
) -> None:
    """Without importing the package, though its class, family and parameters are spread over it."""
    target = tmp_path / "site"
    shutil.copytree(installed, target)
    package = target / "third_party"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from third_party.method import ThirdParty\nimport third_party_is_not_there_yet\n"
    )
    (package / "base.py").write_text(
        'from tta_bench import Method\nclass Base(Method):\n    family = "output"\n'
    )
    (package / "method.py").write_text(
        "from tta_bench import register\nfrom .base import Base\n\n"
        '@register("third-party")\nclass ThirdParty(Base):\n    """By another package."""\n\n'
        "    def score(self, window):\n        return self.model.logits(window)\n"
    )
    information = target / "third_party-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[tta_bench.methods]\nthird-party = third_party:ThirdParty\n"
    )
    seen = _probe(target, tmp_path)
    assert seen["methods"].pop("third-party") == str(package / "method.py")
    _check(seen)
    (target / "third_party_is_not_there_yet.py").write_text("")
    said = _isolated(LOAD, target, tmp_path).splitlines()  # which loads all others as well
    (line,) = [line for line in said if line.startswith("third-party ")]
    assert line.split()[1:] == ["third_party", "third_party.base", "third_party.method"]


def test_a_checkout_that_is_not_installed_knows_its_methods_and_suites(
    sources: Path, installed: Path, tmp_path: Path
) -> None:
    """And takes its own where another copy is installed."""
    for others in ((), (installed,)):
        seen = _probe(sources, tmp_path, *others)
        assert seen["packages"] == {
            package: str(sources / folder / "__init__.py") for folder, package in FOLDERS.items()
        }
    assert seen["methods"]["none"] == str(sources / "methods" / "none.py")
    _check(seen, common_names=True)
    code = "import runpy, sys; sys.path[:0] = [sys.argv[1]]; sys.path += sys.argv[2:]; "
    code += (
        "sys.argv = ['tta-bench', 'list', 'WHAT']; runpy.run_module('tta_bench', {}, '__main__')"
    )
    for what, names in (("methods", METHODS), ("suites", {"quickstart", "headline"})):
        listed = _isolated(code.replace("WHAT", what), sources, tmp_path)
        assert all(f"\n{name} " in f"\n{listed}" for name in names)


def test_constraints_pin_every_dependency_inside_its_range(installed: Path) -> None:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert "torch==2.13.0" in lines
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert "+" not in specifier.version, f"{pin}: a local version exists on one machine only"
        assert pin.url is None
    distribution = PathDistribution(next(installed.glob("*.dist-info")))
    for line in distribution.requires or []:
        needed = Requirement(line)
        if needed.name == distribution.metadata["Name"]:
            continue
        found = [next(iter(p.specifier)).version for p in pins if _same(p.name, needed.name)]
        assert found, f"{needed.name} is not pinned"
        for version in found:
            assert needed.specifier.contains(version), f"{needed} does not admit {version}"


ALONGSIDE = {"huggingface_hub": "transformers", "triton": "torch", "pynvml": "torch"}
"""Packages that come with one that is declared, or are asked for and may lack."""


def test_every_import_is_declared_with_a_floor(installed: Path) -> None:
    """The lowest versions are not installed here: that they are named at all is checked."""
    distribution = PathDistribution(next(installed.glob("*.dist-info")))
    declared = [Requirement(line) for line in distribution.requires or []]
    for needed in declared:
        floor = needed.name.startswith(("tta", "types-")) or ">=" in str(needed.specifier)
        assert floor, f"{needed.name} names no lowest version"
    of_import = packages_distributions()
    for file in sorted(installed.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                if top in FOLDERS.values():
                    continue
                known = of_import.get(ALONGSIDE.get(top, top), [top])
                found = any(_same(one, other.name) for one in known for other in declared)
                assert found, f"{file.relative_to(installed)} imports {top}, which is not declared"


def test_the_oldest_python_is_one_and_the_same() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    (oldest,) = re.findall(r'^requires-python = ">=3\.(\d+)"$', text, re.MULTILINE)
    assert f'target-version = "py3{oldest}"' in text, "ruff"
    assert f'python_version = "3.{oldest}"' in text, "mypy"


def _check(seen: dict, common_names: bool = False) -> None:
    """`common_names`: a checkout itself is on the path, with its folders methods/ and suites/."""
    assert set(seen["methods"]) >= METHODS
    assert bool(seen["common names"]) == common_names
    assert "quickstart.yaml" in seen["suites"]
    assert seen["training recipes"]
    assert not seen["torch"], "naming the methods must not import torch"


def _probe(target: Path, cwd: Path, *others: Path) -> dict:
    return json.loads(_isolated(PROBE, target, cwd, *others))


def _isolated(code: str, target: Path, cwd: Path, *others: Path) -> str:
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        str(target),
        *map(str, others),
        *dependencies,
    ]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _same(one: str, other: str) -> bool:
    return one.lower().replace("_", "-") == other.lower().replace("_", "-")

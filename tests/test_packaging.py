"""The wheel: what a user gets."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cahl_pl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
REQUIREMENTS = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*.whl")
    assert path.name == f"cahl_pl-{cahl_pl.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_the_package_and_nothing_else_at_top_level(wheel):
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "cahl_pl",
        f"cahl_pl-{cahl_pl.__version__}.dist-info",
    }


def test_wheel_holds_every_callback_as_a_real_file(wheel):
    sources = sorted((ROOT / "callbacks").glob("*.py"))
    assert sources
    for source in sources:
        assert wheel.read(f"cahl_pl/callbacks/{source.name}") == source.read_bytes()


def test_wheel_holds_every_configuration_as_a_real_file(wheel):
    sources = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(sources) > 10
    for source in sources:
        assert wheel.read(f"cahl_pl/configs/{source.relative_to(ROOT / 'configs').as_posix()}") == source.read_bytes()


def test_wheel_holds_the_verbs_and_what_they_need(wheel):
    files = [path for path in (ROOT / "cahl_pl" / "commands").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {".css", ".html", ".js", ".py"} == {path.suffix for path in files}
    for path in files:
        assert wheel.read(path.relative_to(ROOT).as_posix()) == path.read_bytes()
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert wheel.read(entry_points).decode().split() == [
        "[console_scripts]",
        "cahl-pl",
        "=",
        "cahl_pl.commands:console",
    ]


@pytest.mark.slow
def test_what_the_wheel_holds_finds_its_configurations_from_an_empty_folder(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    names = ["-c", "configs/quickstart.yaml", "-c", "recipes/toolrl"]
    command = [sys.executable, "-m", "cahl_pl", "fit", *names, "--print_config"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "class_path: cahl_pl.toolworld.ToolWorld" in run.stdout


def test_wheel_holds_type_marker_license_and_model(wheel):
    names = wheel.namelist()
    assert "cahl_pl/py.typed" in names
    assert f"cahl_pl-{cahl_pl.__version__}.dist-info/licenses/LICENSE" in names
    model = [path for path in (ROOT / "cahl_pl/toolworld/model").glob("*") if path.is_file()]
    assert {f"cahl_pl/toolworld/model/{path.name}" for path in model} <= set(names)


@pytest.mark.parametrize("name", ["callbacks", "configs"])
def test_what_stands_outside_of_the_package_in_the_checkout_is_a_relative_symlink(name):
    link = ROOT / "cahl_pl" / name
    assert link.is_symlink(), f"cahl_pl/{name} must be a symlink: on Windows set git's core.symlinks"
    assert link.readlink() == Path("..", name)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_constraints_hold_a_version_that_is_allowed(requirement):
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    name = re.escape(requirement.name.replace("_", "-"))
    found = re.findall(rf"^{name}==(\S+)", text, re.M | re.I)
    if requirement.name == "torch":  # its build depends on the machine: the Makefile names it
        found = re.findall(r"^TORCH \?= torch==(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert found, f"constraints.txt does not name {requirement.name}: make constraints"
    assert all(requirement.specifier.contains(version, prereleases=True) for version in found), (requirement, found)


OPTIONAL = {
    "bfcl_eval",
    "datasets",
    "gguf",
    "bm25s",
    "llguidance",
    "matplotlib",
    "mcp",
    "httpx2",
    "starlette",
    "uvicorn",
    "wandb",
}
"""Imported where they are asked for, with a message that says what to install."""


def imported_packages() -> dict[str, Path]:
    """Top-level packages of others that the package imports, and one file that does."""
    found = {}
    for path in [*(ROOT / "cahl_pl").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: path for name in names}
    ours = {"cahl_pl", "callbacks"}
    return {name: path for name, path in found.items() if name not in ours and name not in sys.stdlib_module_names}


def test_every_package_that_is_imported_is_declared():
    declared = {Requirement(text).name.lower().replace("_", "-") for text in PROJECT["dependencies"]}
    imported = imported_packages()
    assert {"torch", "yaml", "numpy"} <= set(imported)
    known = packages_distributions()
    for name, path in imported.items():
        if name not in OPTIONAL:
            distributions = {d.lower().replace("_", "-") for d in known[name]}
            assert distributions & declared, f"{path.relative_to(ROOT)} imports {name}: declare it in pyproject.toml"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_floor(requirement):
    assert ">=" in str(requirement.specifier), (
        f"{requirement}: without a floor, the oldest release there is may be installed"
    )

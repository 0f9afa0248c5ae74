"""Threads that wait for each other must not keep a busy machine's cores busy as well."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cahl_pl.startup.threads import SETTINGS, SPINS, spin_briefly

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [*sorted((ROOT / "tools").rglob("*.py")), ROOT / "tests" / "conftest.py"]
LOADS_OPENMP = {"torch", "transformers", "lightning", "peft", "bitsandbytes", "torchmetrics", "trl"}


def in_fresh_process(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean | environment, cwd=ROOT
    ).stdout.strip()


def test_set_when_the_package_is_imported_and_without_importing_torch():
    code = "import os, sys, cahl_pl; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert in_fresh_process(code) == f"{SPINS} False"


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_has_set_stays(name, value):
    code = "import os, cahl_pl; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    expected = {"OMP_WAIT_POLICY": "active None", "GOMP_SPINCOUNT": "None 7"}[name]
    assert in_fresh_process(code, **{name: value}) == expected


def test_set_once(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")


def test_openmp_reads_it():
    """GNU OpenMP shows the settings that it has read as it is loaded; elsewhere there is nothing to bound."""
    code = "import cahl_pl, torch"
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean | {"OMP_DISPLAY_ENV": "verbose"}, cwd=ROOT
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch does not use GNU OpenMP here")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in shown


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_import_the_package_before_torch(program):
    """Once torch is there its threads have read how they are to wait."""
    imported: list[str] = []
    for node in ast.parse(program.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.append((node.module or "").split(".")[0])
    heavy = [i for i, name in enumerate(imported) if name in LOADS_OPENMP]
    own = [i for i, name in enumerate(imported) if name == "cahl_pl"]
    assert not heavy or (own and own[0] < heavy[0]), f"{program.name}: import cahl_pl before {imported[heavy[0]]}"

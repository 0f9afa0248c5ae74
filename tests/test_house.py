"""The house keeps its shape: small files, few of them at the root, and imports that run one way between rooms.

A room is a folder of the package or a file at its root. Imports within functions count, those for type checkers do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cahl_pl"

MAX_LINES = 450
MAX_MODULES_AT_THE_ROOT = 20

FLOORS = (
    "types errors plurals moved startup lightning_internals",
    "distributed http_client config_files import_path parsing optimizers sampling schedules policy python_tools",
    "schema",
    "prompts grpo engines",
    "metrics environments grammars",
    "datasets rewards",
    "rollout runs toolworld",
    "benchmarks memory_plan serving",
    "datamodule updates",
    "callbacks",
    "module",
    "cli",
    "commands",
)
"""From the ground up: a room imports rooms of floors below its own alone."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that a syntax tree imports, without the package's name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name.removeprefix("cahl_pl.") for name in node.names if name.name.startswith("cahl_pl."))
        elif isinstance(node, ast.ImportFrom) and node.module == "cahl_pl":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cahl_pl."):
            yield node.module.removeprefix("cahl_pl.")
        yield from imported(node)


def python_files(folder: Path) -> list[Path]:
    """Python files below a folder, also where a folder in it is a link, as cahl_pl/callbacks is."""
    inside = [python_files(path) for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"]
    return [*folder.glob("*.py"), *(path for paths in inside for path in paths)]


def arrows(package: Path = PACKAGE) -> dict[tuple[str, str], str]:
    """A room and a room that it imports -> a file that does so."""
    found = {}
    for path in python_files(package):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
            other = module.partition(".")[0]
            if other != room and room not in ("__init__", "__main__") and other in FLOOR:
                found[room, other] = str(path.relative_to(package))
    return found


def upward(found: dict[tuple[str, str], str]) -> list[str]:
    return [f"{file} imports {other}" for (room, other), file in found.items() if FLOOR[other] >= FLOOR[room]]


@pytest.mark.parametrize("folder", ["cahl_pl", "callbacks", "tools", "tests"])
def test_no_file_is_long(folder):
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(ROOT / folder)}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_few_modules_lie_flat_at_the_root_and_every_room_has_a_floor():
    flat = [path.stem for path in PACKAGE.glob("*.py")]
    assert len(flat) <= MAX_MODULES_AT_THE_ROOT
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    assert {*flat, *folders} - {"__init__", "__main__"} == FLOOR.keys()


def test_imports_run_downwards_alone():
    """So no two rooms import one another either, directly or through others."""
    assert upward(arrows()) == []


def test_a_circle_an_upward_import_and_one_within_a_function_are_seen(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "loading.py").write_text("def load():\n    from cahl_pl.module import CAHLModule\n")
    (tmp_path / "types.py").write_text("if TYPE_CHECKING:\n    import cahl_pl.cli\nfrom cahl_pl import errors\n")
    (tmp_path / "module.py").write_text("from cahl_pl.policy.loading import load\n")
    assert sorted(upward(arrows(tmp_path))) == ["policy/loading.py imports module", "types.py imports errors"]

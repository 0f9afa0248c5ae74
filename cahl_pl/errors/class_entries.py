"""Classes in configuration files, `class_path` and `init_args`: misplaced values and misspelt names."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Iterable, Sequence
from inspect import isabstract
from types import ModuleType
from typing import Any, Final

import yaml

_PARTS: Final = ("class_path", "init_args", "dict_kwargs")
"""Keys of a class's entry, as jsonargparse reads it."""


def fault_of_classes(text: str) -> str | None:
    """Return the fault in the entries of classes, with its line; None if there is none.

    An entry may leave out `class_path` if an earlier file has named the class.

    Args:
        text: text of a configuration, whose YAML is valid.
    """
    nodes: list[tuple[Any, bool]] = [(yaml.compose(text, Loader=yaml.SafeLoader), False)]
    while nodes:
        node, listed = nodes.pop(0)
        if isinstance(node, yaml.SequenceNode):
            nodes += [(one, True) for one in node.value]
        elif isinstance(node, yaml.MappingNode):
            if fault := _fault(node, listed):
                return fault
            nodes += [(value, False) for _, value in node.value]
    return None


def _fault(node: yaml.MappingNode, listed: bool) -> str | None:
    """Return the fault in one mapping."""
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    parts = {str(key.value): value for key, value in node.value}
    path, options = parts.get("class_path"), parts.get("init_args")
    if path is not None and (path.tag != "tag:yaml.org,2002:str" or not path.value.strip()):
        given = repr(path.value) if isinstance(path, yaml.ScalarNode) else "a list or a mapping"
        return f"line {lines['class_path']}: class_path takes the import path of a class, MODULE.CLASS, and {given} is none"
    if path is not None and options is not None and not _is_mapping_or_nothing(options):
        return f"line {lines['init_args']}: init_args takes the options of {path.value}: write KEY: VALUE lines below it"
    others = [key for key in lines if key not in _PARTS]
    for key in others:
        near = difflib.get_close_matches(key, [part for part in _PARTS if part not in lines], 1, cutoff=0.8)
        if near and (near[0] == "class_path" or "class_path" in lines):
            return f"line {lines[key]}: there is no {key!r} of a class; did you mean {near[0]}?"
    if "class_path" in lines and others:
        return (
            f"line {lines[others[0]]}: {others[0]!r} stands beside class_path, and an option of a class stands in init_args: "
            "write it below init_args, and deeper than that"
        )
    if "init_args" not in lines or "class_path" in lines:
        return None
    line = lines["init_args"]
    if others:
        return f"line {line}: init_args stands beside {others[0]!r}: indent it as deep as the class_path that it belongs to"
    if listed:
        return (
            f"line {line}: init_args is an entry of the list by itself: write it below the class_path that it belongs to, "
            "as deep as that and without a hyphen"
        )
    return None


def _is_mapping_or_nothing(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode) or node.tag == "tag:yaml.org,2002:null"


def line_of_value(text: str, value: str) -> int | None:
    """Return the first line, from 1, in which a value is the value of a key or an entry of a list."""
    nodes: list[Any] = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, yaml.ScalarNode) and value in (node.value, os.path.expanduser(node.value)):
            return node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [part for _, part in node.value]
    return None


def place_of(told: str, files: Sequence[tuple[str, str]]) -> str:
    """Return the configuration file and the line that name the subject with which a sentence begins; empty if none does.

    Args:
        told: a sentence such as `rows.jsonl: there is no such file`.
        files: the configurations that were read, path and text of each; the last one takes precedence.
    """
    named = told.partition(": ")[0]
    for path, text in reversed(files):
        if named and named != told and (line := line_of_value(text, named)) is not None:
            return f"{path}, line {line}: "
    return ""


def no_such_class(class_path: str) -> str | None:
    """Return a sentence on a class that is not where its path says, with the nearest one; None if it is there.

    Args:
        class_path: `package.module.Class`.
    """
    *parts, name = class_path.split(".")
    if not parts:
        return None
    module: ModuleType | None = None
    for count, part in enumerate(parts, start=1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != ".".join(parts[:count]):
                return None  # the module exists, but its imports fail
            if module is None:
                return (
                    f"there is no module {part!r} for the class {class_path}: install its package, or put the folder that "
                    "holds the file into PYTHONPATH"
                )
            return _of_no_module(class_path, module, part, name)
        except Exception:
            return None
    if module is None or hasattr(module, name):
        return None
    near = difflib.get_close_matches(name, _classes(module), 1)
    hint = f"did you mean {module.__name__}.{near[0]}?" if near else f"it has {_some(_classes(module))}"
    return f"the module {module.__name__} has no class {name!r}; {hint}"


def _of_no_module(class_path: str, parent: ModuleType, part: str, name: str) -> str:
    found = [one.name for one in pkgutil.iter_modules(getattr(parent, "__path__", ()))]
    for near in difflib.get_close_matches(part, found, 3):
        try:
            module = importlib.import_module(f"{parent.__name__}.{near}")
        except Exception:
            continue
        classes = difflib.get_close_matches(name, _classes(module), 1)
        if classes:
            return f"there is no class {class_path}; did you mean {module.__name__}.{classes[0]}?"
    direct = difflib.get_close_matches(name, _classes(parent), 1)
    hint = f"did you mean {parent.__name__}.{direct[0]}?" if direct else f"there are {_some(found)}"
    return f"there is no class {class_path}, since {parent.__name__} has no module {part!r}; {hint}"


def _classes(module: ModuleType) -> list[str]:
    """Return the instantiable classes that a module or package defines itself, not those that it imports."""
    own = (module.__name__, f"{module.__name__}.")
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and not name.startswith("_")
        and not isabstract(value)
        and (value.__module__ == own[0] or value.__module__.startswith(own[1]))
    ]


def _some(names: Iterable[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("_"))[:12]
    return ", ".join(shown) or "none"

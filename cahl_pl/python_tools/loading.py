"""Modules of tools: Python files, or modules by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Final

from cahl_pl.errors import ConfigError, Interrupted
from cahl_pl.errors.encodings import not_utf8, wide_encoding
from cahl_pl.errors.missing_packages import missing_package
from cahl_pl.python_tools.apart import apart

_CLASS = re.compile(r"(?P<module>.+\.py|(?:[^\W\d]\w*\.)*[^\W\d]\w*):(?P<name>[^\W\d]\w*)")
_FORMS: Final = (
    "tools are the functions of a .py file or of a module that Python finds, such as package.my_tools, the methods of a class "
    "of either, my_tools.py:Shop, or MCP servers that a .json file names"
)
_NAME = re.compile(r"[^\W\d]\w*")


def load(module: str) -> ModuleType:
    """Return a module, by its path or its name; a file is run once.

    Raises:
        ConfigError: there is no such file or module, or it cannot be imported.
    """
    path = Path(module).expanduser()
    if path.suffix.lower() == ".py":
        if not path.is_file():
            raise ConfigError(f"there is no file {module!r} of Python tools; correct the path")
        return _run(path.resolve())
    if not module.strip():
        raise ConfigError(f"the module of Python tools has no name; {_FORMS}")
    try:
        with _apart():
            found = importlib.import_module(module)
    except Interrupted:
        raise
    except BaseException as error:  # a module may raise anything
        if path.is_file():
            raise ConfigError(f"{module!r} is no Python file; {_FORMS}") from error
        itself = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if not itself and (missing := missing_package(error)):
            raise ConfigError(f"the module {module!r} of Python tools cannot be imported: {missing}") from error
        if not itself:
            kind = "" if isinstance(error, SystemExit | KeyboardInterrupt) else f"{type(error).__name__}: "
            raise ConfigError(
                f"the module {module!r} of Python tools cannot be imported ({kind}{_short(error)}); correct it"
            ) from error
        raise ConfigError(
            f"the module {module!r} of Python tools cannot be imported ({_short(error)}); give the path of a .py file, or a "
            f"module that Python finds{_dotted_class(module)}"
        ) from error
    if getattr(found, "__file__", None) is None and hasattr(found, "__path__"):
        raise ConfigError(f"{module!r} is a folder without an __init__.py; {_FORMS}")
    return found


def _dotted_class(module: str) -> str:
    """Return a hint to add if the last part of a name looks like a class of the rest."""
    rest, _, name = module.rpartition(".")
    return f"; a class comes after a colon: {rest}:{name}" if rest and name[:1].isupper() else ""


def names_tools(toolkit: str) -> bool:
    """Return whether this is a Python file, or a class of a file or module, and not the import path of a function."""
    return toolkit.lower().endswith(".py") or ":" in toolkit


def split_class(module: str) -> tuple[str, str | None]:
    """Return the module of `my_tools.py:Shop` or `package.my_tools:Shop`, and the name of the class; None without one.

    Raises:
        ConfigError: there is a colon, but it is not followed by the name of a class alone.
    """
    if ":" not in module or module.endswith(".py"):
        return module, None
    if found := _CLASS.fullmatch(module):
        return found["module"], found["name"]
    path, _, rest = module.partition(".py:") if ".py:" in module else module.partition(":")
    path = f"{path or 'my_tools'}.py" if ".py:" in module or not path or os.sep in path else path
    names = _NAME.findall(rest) or ["Shop"]
    more = (
        f"; all its methods are tools, and a row that offers {names[1]} alone names it in `tools`" if names[1:] else ""
    )
    raise ConfigError(
        f"{module!r} does not name a class of Python tools: write {path}:{names[0]}, the file or module, one colon and the "
        f"class, or {path} alone for its functions{more}"
    )


def class_of(module: ModuleType, name: str, where: str) -> type:
    """Return a class of a module.

    Raises:
        ConfigError: there is none of that name, or it can have no instances.
    """
    found = vars(module).get(name)
    if not isinstance(found, type):
        if callable(found):
            raise ConfigError(
                f"{where}:{name} is a function, not a class: give {where} alone, whose functions are tools"
            )
        known = classes_of(module)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"its classes are: {', '.join(known) or 'none'}"
        raise ConfigError(f"{where} has no class {name!r}; {hint}")
    if inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        missing = f" (without {', '.join(sorted(left))})" if (left := getattr(found, "__abstractmethods__", ())) else ""
        raise ConfigError(
            f"{where}:{name} is abstract{missing}, so that no session could have an instance of it: name a class that "
            "defines all its methods"
        )
    return found


def classes_of(module: ModuleType) -> list[str]:
    """Return the names of the public classes that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


@cache  # dataset and environment name the same file, and it must not be run twice
def _run(path: Path) -> ModuleType:
    name = f"cahl_python_tools_{path.stem}_{abs(hash(path))}"
    # the loader is named, since Python recognizes only .py in lower case as its own suffix
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    if str(path.parent) not in sys.path:
        sys.path.append(
            str(path.parent)
        )  # for files next to it, as for a script; last, so that they replace no package
    try:
        with _apart():
            spec.loader.exec_module(module)
    except Interrupted:
        raise
    except BaseException as error:  # a file may raise anything
        del sys.modules[spec.name]
        if known := missing_package(error) or _encoding(path, error) or _relative(path, error):
            raise ConfigError(f"the Python tools {str(path)!r} cannot be imported: {known}") from error
        raise ConfigError(
            f"the Python tools {str(path)!r} cannot be imported ({_where(path, error)}{_short(error)}); correct the file"
        ) from error
    return module


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Keep a module's prints during import out of the program's output, and protect the program's input and folder."""
    with apart(), contextlib.redirect_stdout(sys.stderr):
        yield


def _where(path: Path, error: BaseException) -> str:
    """Return the line of the file in which an error was raised last, and the error's type; empty if that says nothing."""
    if isinstance(error, SyntaxError):  # its text has the line
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return f"line {lines[-1]}: " if lines else ""
    return f"line {lines[-1]}: {type(error).__name__}: " if lines else f"{type(error).__name__}: "


def _encoding(path: Path, error: BaseException) -> str | None:
    """Return the message about a file that is not in the encoding that it declares; None if that is not the fault."""
    data = path.read_bytes()
    if wide_encoding(data[:4]) is not None:
        return not_utf8(path, data[:4])
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return not_utf8(path, b"", fault.start) if isinstance(error, SyntaxError) else None
    return None


def _relative(path: Path, error: BaseException) -> str | None:
    """Return the message about a file of a package, whose imports start with a dot; None for another error."""
    if not isinstance(error, ImportError) or "relative import" not in str(error):
        return None
    return f"it is a part of a package ({error}); give the module's name, such as `{path.parent.name}.{path.stem}`"


def _short(error: BaseException) -> str:
    """Return the first line of an error's text, without its last full stop."""
    if isinstance(error, SystemExit):
        return "it exits when it is imported"
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted while it was imported"
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first or type(error).__name__

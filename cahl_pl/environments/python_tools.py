"""Plain Python functions as tools: what a model reads of them, and how they are run."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.environments.type_hints import schema_of
from cahl_pl.errors import ConfigError
from cahl_pl.schema import check_tool
from cahl_pl.types import ToolSpec


class PythonTools:
    """The functions of a module as tools, and as the toolkit of an ExecutableEnvironment.

    A function's name, type hints and Google docstring become its ToolSpec; the docstring is read by
    `transformers.utils.get_json_schema`. A parameter named `state` is not offered: it is the session's own copy of the
    task's state, which a tool may change and the session's next call then sees.

    Args:
        module: a Python file, such as `my_tools.py`, or a module, such as `package.my_tools`.
        functions: names of the functions to offer; all public ones that the module itself defines if None.

    Attributes:
        specs: the tools, in the order of the module or of `functions`.

    Raises:
        ConfigError: there is no such module or function, the module cannot be imported, or a function has no
            docstring, no type hints, or types that JSON does not have.
    """

    def __init__(self, module: str, functions: Sequence[str] | None = None) -> None:
        loaded = _load(module)
        known = {name: value for name, value in vars(loaded).items() if _is_function(value)}
        own = [
            name for name, value in known.items() if value.__module__ == loaded.__name__ and not name.startswith("_")
        ]
        for name in functions or ():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"its functions are: {', '.join(own) or 'none'}"
                raise ConfigError(f"{module} has no function {name!r}; {hint}")
        self._functions: dict[str, Callable[..., Any]] = {name: known[name] for name in functions or own}
        if not self._functions:
            raise ConfigError(f"{module} defines no public function; write one, with type hints and a docstring")
        self.specs = tuple(_spec(function, f"{module}, function {name}") for name, function in self._functions.items())

    def __call__(self, state: Mapping[str, Any] | None) -> Mapping[str, Callable[..., Any]]:
        """Return the functions of a session by name, bound to its state."""
        own: Mapping[str, Any] = {} if state is None else state
        return {
            name: partial(function, state=own) if _has_state(function) else function
            for name, function in self._functions.items()
        }


class PythonToolsEnvironment(ExecutableEnvironment):
    """Environment that runs the functions of a module; see `PythonTools` and `ExecutableEnvironment`.

    Args:
        module: a Python file or a module.
        functions: names of the functions to offer; all public ones if None.
        max_characters: longer answers are cut and end with "...".

    Raises:
        ConfigError: the module or a function of it cannot be used.
        ValueError: `max_characters` is below 3.
    """

    def __init__(self, module: str, functions: list[str] | None = None, max_characters: int = 2000) -> None:
        super().__init__(PythonTools(module, functions), max_characters)


def _load(module: str) -> ModuleType:
    path = Path(module).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"there is no file {module!r} of Python tools; correct the path")
        return _run(path.resolve())
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the module {module!r} of Python tools cannot be imported ({_short(error)}); give the path of a .py file, or a "
            "module that Python finds"
        ) from error


@cache  # dataset and environment name the same file, and it must not be run twice
def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cahl_python_tools_{path.stem}_{abs(hash(path))}", path)
    assert spec is not None
    assert spec.loader is not None  # since the path ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise ConfigError(
            f"the Python tools {str(path)!r} cannot be imported ({_short(error)}); correct the file"
        ) from error
    return module


def _is_function(value: Any) -> bool:
    """Return whether it is a function, or one that a decorator such as `functools.cache` has wrapped in an object."""
    wrapped = None if isinstance(value, type) else inspect.getattr_static(value, "__wrapped__", None)
    return isinstance(value, FunctionType) or (callable(value) and isinstance(wrapped, FunctionType))


def _has_state(function: Callable[..., Any]) -> bool:
    return "state" in inspect.signature(function).parameters


def _spec(function: Callable[..., Any], where: str) -> ToolSpec:
    from transformers.utils import get_json_schema  # here: the import takes seconds

    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where}: tools are called without an event loop; write def, not async def")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                f"{where}: the parameter {parameter.name!r} cannot be given by name; tools are called by name"
            )
    try:
        hints = {name: hint for name, hint in get_type_hints(function).items() if name not in ("state", "return")}
        found = get_json_schema(_described(function, hints))["function"]
        texts = found["parameters"]["properties"]
        # transformers reads the docstring; its reading of type hints differs from version to version
        found["parameters"]["properties"] = {
            name: {**schema_of(hint), **{key: text for key, text in texts[name].items() if key != "type"}}
            for name, hint in hints.items()
        }
        tool = ToolSpec(found["name"], found["description"] or "", found["parameters"])
        check_tool(tool, "schema")
    except Exception as error:  # transformers' own, and whatever a type hint that cannot be resolved raises
        raise ConfigError(
            f"{where}: {_short(error)}; every parameter needs a type hint that JSON can express (str, int, float, bool, list, "
            "dict, Literal, or a union of them) and a line under Args: in a Google docstring"
        ) from None
    return tool


def _described(function: Callable[..., Any], hints: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what `get_json_schema` is to read: name, docstring and parameters but `state`, as if all were text."""

    def described() -> None: ...

    described.__name__, described.__doc__ = function.__name__, function.__doc__
    described.__annotations__ = dict.fromkeys(hints, str)
    parameters = [
        parameter.replace(annotation=str if name in hints else parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "state"
    ]
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return described


def _short(error: BaseException) -> str:
    """Return the first line of an error's text, without its last full stop."""
    if isinstance(error, SystemExit):
        return "it exits when it is imported"
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first or type(error).__name__

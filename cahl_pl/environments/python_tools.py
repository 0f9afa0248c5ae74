"""Plain Python functions as tools: their descriptions for a model, and their execution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cahl_pl.environments.executable import ExecutableEnvironment
from cahl_pl.errors import ConfigError, SchemaError, ToolWarning
from cahl_pl.python_tools.toolkit import PythonToolkit
from cahl_pl.schema import check_tool
from cahl_pl.types import ToolSpec

_TOLD: set[str] = set()
"""Modules whose functions without a docstring have been reported: data sets and the environment read the same one."""


class PythonTools:
    """Functions of a module as tools, and as the toolkit of an ExecutableEnvironment.

    A function's name, type hints and docstring become its ToolSpec. A parameter named `state` is not offered: it is the
    session's own copy of the task's state, which a tool may change and the session's next call then sees.

    Args:
        module: a Python file, such as `my_tools.py`, or a module, such as `package.my_tools`. With a class after a colon,
            `my_tools.py:Shop`, its methods are the tools, and each session has its own instance, `Shop(**state)`.
        functions: names of the functions to offer; if None those of the module's `__all__`, and without that all public
            ones that have a docstring and that the module itself defines.

    Attributes:
        specs: the tools, in the order of the module or of `functions`.

    Raises:
        ConfigError: there is no such module or function, the module cannot be imported, or functions cannot be tools; all
            of them are named, with the parameters that are at fault.
    """

    def __init__(self, module: str, functions: Sequence[str] | None = None) -> None:
        self._toolkit = PythonToolkit(module, functions)
        specs, faults = [], list(self._toolkit.faults)
        for name, tool in self._toolkit.tools.items():
            spec = ToolSpec(name, tool.description, tool.parameters.schema)
            try:
                check_tool(spec, module)
                specs.append(spec)
            except SchemaError as error:
                faults.append(str(error))
        if faults:
            raise ConfigError(
                f"{module}: {'; '.join(faults)}; a public function that is no tool can be left out by listing the others in "
                "__all__"
            )
        others = f" ({', '.join(self._toolkit.others)} without one)" if self._toolkit.others else ""
        if not specs:
            classes = self._toolkit.classes
            hint = (
                f", or name a class whose methods are tools: {module}:{classes[0]}"
                if classes and ":" not in module
                else ""
            )
            raise ConfigError(
                f"{module} defines no public function with a docstring{others}; write one, with type hints{hint}"
            )
        if others and module not in _TOLD:
            _TOLD.add(module)
            warnings.warn(
                f"{module}: functions without a docstring are not offered: {', '.join(self._toolkit.others)}",
                ToolWarning,
                stacklevel=2,
            )
        self.specs = tuple(specs)

    def __call__(self, state: Mapping[str, Any] | None) -> Mapping[str, Callable[..., Any]]:
        """Return the functions of a session by name, bound to its state."""
        return self._toolkit(state)

    def shared_state(self) -> str | None:
        """Return a message, once, if calls have changed state that other episodes see; otherwise None."""
        return self._toolkit.shared_state()


class PythonToolsEnvironment(ExecutableEnvironment):
    """Environment that runs the functions of a module; see `PythonTools` and `ExecutableEnvironment`.

    Args:
        module: a Python file or a module, or a class of one, `my_tools.py:Shop`.
        functions: names of the functions to offer; if None those of `__all__`, or all public ones with a docstring.
        max_characters: longer answers are cut and end with "...".

    Raises:
        ConfigError: the module or a function of it cannot be used.
        ValueError: `max_characters` is below 3.
    """

    tools_option = "module"

    def __init__(self, module: str, functions: list[str] | None = None, max_characters: int = 2000) -> None:
        super().__init__(PythonTools(module, functions), max_characters)
        self.tools_source = module

"""Functions of a module, ready to be called with a model's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any, NamedTuple

from cahl_pl.errors import ConfigError
from cahl_pl.python_tools.arguments import STATE, Parameters
from cahl_pl.python_tools.choosing import choose, choose_methods, docstring_of
from cahl_pl.python_tools.docstrings import read_docstring
from cahl_pl.python_tools.loading import class_of, classes_of, load, split_class
from cahl_pl.python_tools.shared_state import SharedState


class PythonTool(NamedTuple):
    """Function, its description, and its parameters."""

    function: Callable[..., Any]
    description: str
    parameters: Parameters


class PythonToolkit:
    """Tools of a module, and the function that makes those of one session.

    Args:
        module: a Python file or a module; with a class after a colon, `my_tools.py:Shop`, its methods are the tools, and each
            session has its own instance, made from the task's state: `Shop(**state)`.
        functions: names of the functions to offer; see `cahl_pl.python_tools.choosing.choose`.

    Attributes:
        tools: tools by name, in order; those with faults are left out.
        faults: reasons why functions cannot be tools, each a sentence that names the function.
        classes: names of the module's public classes.
        others: public functions that are not offered, by name: without a docstring, or with faults. They are still run
            if a task describes them itself, with arguments in JSON's types.

    Raises:
        ConfigError: the module cannot be imported, or has no function with a given name.
    """

    def __init__(self, module: str, functions: Sequence[str] | None = None) -> None:
        path, name_of_class = split_class(module)
        loaded = load(path)
        self._class = None if name_of_class is None else class_of(loaded, name_of_class, path)
        self.classes = classes_of(loaded)
        choice = (
            choose(loaded, module, functions) if self._class is None else choose_methods(self._class, module, functions)
        )
        self.tools: dict[str, PythonTool] = {}
        self.faults: list[str] = list(choice.faults)
        self.others = dict(choice.left_out)
        for name, function in choice.functions.items():
            documentation = read_docstring(docstring_of(function))
            parameters = Parameters(function, documentation)
            faults = list(parameters.faults)
            if not documentation.description:
                faults.append("it has no docstring that says what it does")
            self.faults += [f"function {name}: {fault}" for fault in faults]
            if faults:
                self.others[name] = function
            else:
                self.tools[name] = PythonTool(function, documentation.description, parameters)
        self._module = module
        self._shared = SharedState(loaded)

    def __call__(self, state: Mapping[str, Any] | None) -> dict[str, Callable[..., Any]]:
        """Return the functions of a session by name, bound to its state; the methods of a class, to its own instance.

        Those of tools take arguments in JSON's types and raise `ArgumentError` if one cannot be read as its type.

        Raises:
            ConfigError: the class takes other arguments than the state has.
            BaseException: anything that its constructor raises.
        """
        own: Mapping[str, Any] = {} if state is None else state
        instance = None
        if self._class is not None:
            _check_state(self._class, own)
            instance = self._class(**own)

        def of_instance(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            found: Callable[..., Any] = function if instance is None else getattr(instance, name)
            return found

        def bound(name: str, tool: PythonTool) -> Callable[..., Any]:
            function = of_instance(name, tool.function)
            return lambda **arguments: tool.parameters.call(function, arguments, own)

        others = {
            name: partial(of_instance(name, function), state=own)
            if STATE in signature(function).parameters
            else of_instance(name, function)
            for name, function in self.others.items()
        }
        return {name: bound(name, tool) for name, tool in self.tools.items()} | others

    def shared_state(self) -> str | None:
        """Return a message, once, if calls have changed state that other episodes see; otherwise None."""
        changed = self._shared.changed()
        if not changed:
            return None
        return (
            f"{self._module}: calls have changed {', '.join(changed)}, which all episodes share: what one does, the next one "
            "sees; unless that is a cache, keep it in a parameter named `state`, which each episode has to itself"
        )


def _check_state(owner: type, state: Mapping[str, Any]) -> None:
    """Refuse a state that a class does not accept as its arguments.

    Raises:
        ConfigError: naming them.
    """
    try:
        parameters = signature(owner).parameters
    except (ValueError, TypeError):  # unknown to Python, as for some classes written in C
        return
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    open_ = any(parameter.kind == Parameter.VAR_KEYWORD for parameter in parameters.values())
    taken = [name for name, parameter in parameters.items() if parameter.kind in by_name]
    missing = [name for name in taken if parameters[name].default is Parameter.empty and name not in state]
    if missing:
        raise ConfigError(
            f"{owner.__name__}(**state) needs {', '.join(missing)}, which the row's `state` does not have: write it there, or "
            "give the parameter a default"
        )
    unknown = [] if open_ else [name for name in state if name not in taken]
    if unknown:
        raise ConfigError(
            f"{owner.__name__}(**state) takes no {', '.join(unknown)}, which the row's `state` has: leave it out there, or "
            f"give {owner.__name__}.__init__ such a parameter"
        )

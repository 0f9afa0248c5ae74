"""Write docs/configuration.md from the code: every key of a configuration, its type, its default and its meaning.

    python -m tools.make.config_reference            # write it
    python -m tools.make.config_reference --check    # exit with 1 if it is not what the code says

Types and defaults come from the constructors, meanings from their docstrings.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docstring_parser import parse

import cahl_pl.callbacks
from cahl_pl import benchmarks, datasets, engines, environments, rewards, sampling, schedules
from cahl_pl.benchmarks import answers, search
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.grpo.config import RoleGRPOConfig
from cahl_pl.module import CAHLModule
from cahl_pl.toolworld import ToolWorld

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
HEAD = """\
# Configuration

Written by `python -m tools.make.config_reference` from the code. A configuration is YAML with the parts `trainer`, `model` and
`data`; every key can be given on the command line too (`--model.planner.lr 1e-4`). Several `-c` are read in turn: the later
file wins, the command line wins over all, and a list is replaced as a whole. `--print_config` shows what holds in the end.

`trainer` is Lightning's: [its keys](https://lightning.ai/docs/pytorch/stable/common/trainer.html). Components are chosen by
`class_path`, with their own keys under `init_args`; a class of yours that inherits from the same base class can stand in
the place of any of them.
"""
# choices of components: heading, key that chooses one, base class, places of its classes
COMPONENTS = (
    ("Data sets", "data.train, data.validation, data.test.NAME", datasets.TaskSource, (datasets, ToolWorld)),
    ("Benchmarks", "data.validation, data.test.NAME", benchmarks.Benchmark, (benchmarks,)),
    ("Searches of Bamboogle", "init_args.search", search.Search, (search,)),
    ("Judges of Bamboogle", "init_args.judge", answers.Judge, (benchmarks,)),
    ("Environments", "data.environment", environments.Environment, (environments,)),
    ("Rewards of the planner", "data.planner_reward", rewards.BasePlannerReward, (rewards,)),
    ("Rewards of the executor", "data.executor_reward", rewards.BaseExecutorReward, (rewards,)),
    ("Rewards without a planner", "data.turn_reward", rewards.BaseTurnReward, (rewards,)),
    ("Schedules", "data.schedule", schedules.Schedule, (schedules,)),
    ("Samplers", "data.sampler", sampling.TaskSampler, (sampling,)),
    ("Engines", "data.engine", engines.Engine, (engines,)),
    ("Callbacks", "trainer.callbacks", None, (cahl_pl.callbacks,)),
)


def page() -> str:
    """Return the page's text."""
    parts = [HEAD]
    for prefix, part in (("model", CAHLModule), ("data", RolloutDataModule)):
        parts += [f"## `{prefix}`", *_section(prefix, part)]
    for title, key, base, places in COMPONENTS:
        parts.append(f"## {title}\n\n`{key}`")
        for cls in _classes(base, places):
            summary = (parse(inspect.getdoc(cls) or "").short_description or "").strip()
            parts.append(f"### `{_path(cls)}`\n\n{summary}")
            if rows := [_row(name, kind, default, text) for name, kind, default, text in _parameters(cls)]:
                parts.append(_table("key of `init_args`", rows))
    return "\n\n".join(parts) + "\n"


def keys() -> list[str]:
    """Return every key below `model` and `data` that is on the page, nested ones with dots."""
    return [*_keys("model", CAHLModule), *_keys("data", RolloutDataModule)]


def _keys(prefix: str, cls: type) -> Iterator[str]:
    for name, kind, _, _ in _parameters(cls):
        yield f"{prefix}.{name}"
        if dataclasses.is_dataclass(kind):
            yield from _keys(f"{prefix}.{name}", typing.cast(type, kind))


def _section(prefix: str, cls: type) -> list[str]:
    """Return a table of the plain keys, then one for each group of keys."""
    groups, rows = [], []
    for name, kind, default, text in _parameters(cls):
        if dataclasses.is_dataclass(kind):
            groups.append((f"{prefix}.{name}", typing.cast(type, kind), text))
        else:
            rows.append(_row(name, kind, default, text))
    found = [_table(f"key of `{prefix}`", rows)] if rows else []
    for name, kind, text in groups:
        if kind is RoleGRPOConfig:  # repeats the keys of another group
            summary = parse(inspect.getdoc(kind) or "").short_description or ""
            found.append(f"### `{name}`\n\n{_sentence(text)} {_sentence(summary)}")
        else:
            found += [f"### `{name}`\n\n{_sentence(text)}", *_section(name, kind)]
    return found


def _parameters(cls: type) -> list[tuple[str, Any, Any, str]]:
    """Return name, type, default and meaning of each argument of a constructor."""
    constructor: Any = cls if dataclasses.is_dataclass(cls) else cls.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(constructor)
    meaning = {p.arg_name: p.description or "" for p in parse(inspect.getdoc(cls) or "").params}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    made = {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    return [
        (name, hints.get(name, Any), made.get(name, parameter.default), meaning.get(name, ""))
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _classes(base: type | None, places: tuple[Any, ...]) -> list[type]:
    found: list[type] = []
    for place in places:
        members = [place] if isinstance(place, type) else [getattr(place, name) for name in _names(place)]
        found += [
            c for c in members if isinstance(c, type) and (base is None or (issubclass(c, base) and c is not base))
        ]
    return [cls for cls in found if not inspect.isabstract(cls)]


def _names(module: types.ModuleType) -> list[str]:
    return list(getattr(module, "__all__", None) or [n for n, v in vars(module).items() if _is_own(v, module)])


def _is_own(value: Any, module: types.ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _path(cls: type) -> str:
    """Return the shortest public path: a package that exports the class, else its module."""
    package = cls.__module__.rpartition(".")[0]
    return f"{package if hasattr(sys.modules.get(package), cls.__name__) else cls.__module__}.{cls.__name__}"


def _row(name: str, kind: Any, default: Any, text: str) -> str:
    shown = "required" if default is inspect.Parameter.empty else f"`{_default(default)}`"
    cells = (f"`{name}`", f"`{_type(kind)}`", shown, _sentence(text))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "as below"
    text = repr(value) if not isinstance(value, str) else value
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _type(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type, inner))
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if inner and origin is not None and origin is not Callable:
        return f"{_type(origin)}[{', '.join(map(_type, inner))}]"
    if origin is Callable:
        return "Callable"
    return {types.NoneType: "null", Ellipsis: "..."}.get(kind) or str(getattr(kind, "__name__", kind))


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _table(first: str, rows: list[str]) -> str:
    return "\n".join([f"| {first} | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


@reader_may_leave()
def main(arguments: list[str] | None = None) -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    text = page()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"error: {PAGE} is not what the code says: run python -m tools.make.config_reference")


if __name__ == "__main__":
    main()

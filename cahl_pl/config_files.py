"""Configuration files: a user's path, or the name of one that ships with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from cahl_pl.errors import ConfigError

SHIPPED = Path(__file__).parent / "configs"
"""The folder of the shipped configurations: `configs/` of a checkout, copied into the wheel."""


def shipped_names() -> list[str]:
    """Return the names of the shipped configurations, such as `quickstart` and `recipes/toolrl`."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml"))


def find_config(given: str) -> str:
    """Return the path of a configuration: the user's file if it exists, else the shipped one of that name.

    Args:
        given: a path, or a shipped name with or without `configs/` before it and `.yaml` after it.

    Raises:
        ConfigError: it is neither.
    """
    if Path(given).is_file() or "://" in given or given.lstrip().startswith("{"):  # an address or the content itself
        return given
    name = given.removeprefix("configs/").removesuffix(".yaml")
    names = shipped_names()
    if name in names:
        return str(SHIPPED / f"{name}.yaml")
    if given and Path(given).is_dir():
        raise ConfigError(f"the configuration {given} is a folder: give a file, or the name of a shipped one")
    raise ConfigError(f"the configuration {given} is neither a file nor one that ships; {_nearest(name, names)}")


def find_configs_in(words: list[str]) -> list[str]:
    """Return the words of a command line with every configuration replaced by its path.

    Raises:
        ConfigError: one of them is neither a file nor shipped.
    """
    found: list[str] = []
    for word in words:
        if found and found[-1] in ("-c", "--config"):
            found.append(find_config(word))
        elif word.startswith(("-c=", "--config=")):
            option, _, given = word.partition("=")
            found.append(f"{option}={find_config(given)}")
        elif word.startswith("-c") and len(word) > 2:
            found.append(f"-c{find_config(word[2:])}")
        else:
            found.append(word)
    return found


def _nearest(name: str, names: list[str]) -> str:
    """Return the end of the sentence about an unknown name: the nearest names, or all."""
    by_last_part = {known.rpartition("/")[2]: known for known in names}
    last = Path(name).name.removesuffix(".yaml")
    near = [by_last_part[last]] if last in by_last_part else difflib.get_close_matches(name, names, 3)
    near = near or [by_last_part[part] for part in difflib.get_close_matches(Path(name).name, by_last_part, 3)]
    return f"did you mean {' or '.join(near)}?" if near else "`cahl-pl --help` names those that ship"

"""Modules under their earlier names, so that the `class_path` of an older YAML and a user's own imports still work."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "brief": "prompts.tool_text",
    "datasets.api_bank": "datasets.formats.api_bank",
    "datasets.rlla": "datasets.formats.rlla",
    "datasets.seal_tools": "datasets.formats.seal_tools",
    "datasets.toolace": "datasets.formats.toolace",
    "datasets.xlam": "datasets.formats.xlam",
    "engines.adapters": "policy.saved_adapters",
    "engines.client": "http_client",
    "engines.constraint": "policy.constraint",
    "engines.transformers": "engines.local",
    "files": "runs.files",
    "forward": "policy.forward",
    "gguf": "policy.gguf",
    "http": "http_client",
    "inference": "rollout.test_time",
    "lengths": "rollout.prompt_limit",
    "library_warnings": "startup.library_warnings",
    "logprobs": "policy.logprobs",
    "packing": "policy.packing",
    "pipes": "commands.pipes",
    "quiet": "startup.library_warnings",
    "records": "runs.records",
    "resharding": "distributed",
    "resume": "runs.resume",
    "single_level": "rollout.single_level",
    "strategy": "distributed",
    "supervised": "rollout.gold",
    "threads": "startup.threads",
    "tool_text": "prompts.tool_text",
    "turns": "rollout.gold",
}
"""Old name -> new name, below this package."""


class _Finder(MetaPathFinder, Loader):
    """Finder of the new module when the old one is imported; comes last, so that it slows down no other import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        return spec_from_loader(name, self) if package == "cahl_pl" and old in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"cahl_pl.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}: use that name", FutureWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the new module's own spec, which the import system has replaced; the module has been run before."""
        module.__spec__ = self._spec


def warn_of_moved_names(text: str, place: str) -> None:
    """Warn of every old name in a configuration, by its line; importing it afterwards warns no more.

    Args:
        text: the text of a YAML file, or a word of the command line.
        place: the place that the warning names: the file, or `command line`.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        for name in re.findall(r"\bcahl_pl((?:\.[a-z_0-9]+)+)", line.partition("#")[0]):
            old = name[1:]
            if old in MOVED:
                told = f"{line.strip()}: cahl_pl.{old} is now cahl_pl.{MOVED[old]}: write that name there"
                warnings.warn_explicit(told, FutureWarning, place, number)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)
                    importlib.import_module(f"cahl_pl.{old}")


def find_moved_modules() -> None:
    """Make imports of the old names find the new modules, with a warning."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())

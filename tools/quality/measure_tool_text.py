"""Measure how long the tools of a task are in each `tool_format`: mean tokens of a task's list, as a Markdown table.

    python -m tools.quality.measure_tool_text rlla:rlla_sft.json seal-tools:dev.jsonl --tools tool.jsonl --tokenizer ID

DATA is FORMAT:PATH with a format of cahl-pl convert-data, or a file in this project's task format (docs/your-data.md),
or bfcl:CATEGORY of the installed package bfcl-eval. The tokenizer is a folder, an id of the Hugging Face hub or a GGUF
file.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

from cahl_pl.benchmarks.bfcl.data import CATEGORIES, load_entries, package_folder
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.datasets import DataError
from cahl_pl.datasets.convert import FORMATS, NEEDS_TOOLS, read_source
from cahl_pl.datasets.loading import judge
from cahl_pl.errors import ConfigError
from cahl_pl.prompts.tool_text import ToolFormat, tool_text
from cahl_pl.types import ToolSpec

BASELINE: Final = "json"
"""The format that savings are relative to."""

RULE = "a run of letters, digits and underscores, or one other character that is not white space"
"""Definition of a token without a tokenizer."""


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the data on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="DATA", help="FORMAT:PATH; " + ", ".join((*FORMATS, "bfcl")))
    parser.add_argument(
        "--tools",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"files that declare the tools, for {' and '.join(NEEDS_TOOLS)}",
    )
    parser.add_argument("--tokenizer", metavar="FOLDER_OR_ID", help=f"without it, a token is {RULE}")
    options = parser.parse_args(arguments)
    try:
        count = counter(options.tokenizer)
        rows = [(data, tool_lists(data, options.tools)) for data in options.data]
    except (DataError, ConfigError) as error:
        sys.exit(f"error: {error}")
    print(table(rows, count))
    name = options.tokenizer or RULE
    print(f"\nTokens: {Path(name).resolve().name if Path(name).exists() else name}.")


def tool_lists(data: str, tools: Sequence[str] = ()) -> list[tuple[ToolSpec, ...]]:
    """Return the tools of each task of DATA that has any.

    Raises:
        ConfigError: files of tools are missing or not needed, or there is no such category of BFCL.
        DataError: the data cannot be read, or no task offers a tool.
    """
    name, _, path = data.partition(":")
    if name == "bfcl":
        if path not in CATEGORIES:
            raise ConfigError(f"{data}: BFCL has no such category; use one of {', '.join(CATEGORIES)}")
        lists = [entry.tools() for entry in load_entries(package_folder(None), path)]
    else:
        if name not in FORMATS:
            name, path = "jsonl", data
        verdicts = list(judge(*read_source(name, path, tools if name in NEEDS_TOOLS else ())))
        lists = [verdict.task.tools for verdict in verdicts if verdict.task is not None]
        if not any(lists):
            reason = next((f" ({verdict.reason})" for verdict in verdicts if verdict.task is None), "")
            raise DataError(
                f"{data}: no task offers a tool{reason}; if the format {name} is not right, give FORMAT:PATH"
            )
    return [offered for offered in lists if offered]


def counter(tokenizer: str | None) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
    """
    if tokenizer is None:
        return lambda text: len(re.findall(r"\w+|[^\w\s]", text))
    from transformers import AutoTokenizer

    path = Path(tokenizer)
    try:
        if path.suffix == ".gguf":
            loaded = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        else:
            loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, ImportError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigError(f"the tokenizer {tokenizer!r} cannot be loaded ({first_line}); correct --tokenizer") from None
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


def table(rows: Sequence[tuple[str, Sequence[tuple[ToolSpec, ...]]]], count: Callable[[str], int]) -> str:
    """Return the table: for each set of tasks the mean tokens of a task's tools, one line each, with the change from JSON.

    Args:
        rows: (name, tools of each task).
        count: counter of the tokens of a text.
    """
    formats: tuple[ToolFormat, ...] = get_args(ToolFormat)
    lines = [
        "| data | tasks | tools a task | " + " | ".join(formats) + " |",
        "| --- |" + " ---: |" * (2 + len(formats)),
    ]
    for name, lists in rows:
        means = {
            form: statistics.mean(count("\n".join(tool_text(tool, form) for tool in tools)) for tools in lists)
            for form in formats
        }
        cells = [
            f"{mean:.0f}" + ("" if form == BASELINE else f" ({100 * (mean / means[BASELINE] - 1):+.0f} %)")
            for form, mean in means.items()
        ]
        offered = statistics.mean(map(len, lists))
        shown = f"{name.partition(':')[0]}:{Path(name.partition(':')[2]).name}" if ":" in name else Path(name).name
        lines.append("| " + " | ".join([shown, str(len(lists)), f"{offered:.1f}", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

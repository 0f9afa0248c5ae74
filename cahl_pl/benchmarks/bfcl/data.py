"""BFCL's files as values: entries, their questions, and their functions as tools.

Format: https://github.com/ShishirPatil/gorilla/tree/main/berkeley-function-call-leaderboard, as `bfcl-eval` packs it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cahl_pl.errors import ConfigError, DataError
from cahl_pl.types import Message, ToolSpec

NON_LIVE: Final = ("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple")
LIVE: Final = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
AST: Final = (*NON_LIVE, *LIVE)
IRRELEVANCE: Final = ("irrelevance", "live_irrelevance")
RELEVANCE: Final = ("live_relevance",)
MULTI_TURN: Final = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
CATEGORIES: Final = (*AST, *IRRELEVANCE, *RELEVANCE, *MULTI_TURN)
"""Categories that can be run here: all of BFCL V3. The agentic categories of V4 (web search, memory) cannot."""

_FUNCTION_FILES: Final = {  # class of a multi-turn backend -> file of its functions
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
_TYPES: Final = {
    "string": "string",
    "integer": "integer",
    "float": "number",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
}
"""BFCL's type names in JSON Schema; `any`, and a name that is missing here, constrain nothing."""

_LANGUAGES: Final = {"simple_java": "Java", "simple_javascript": "JavaScript"}
_HINTS: Final = {
    "simple_java": " Note that the provided function is in Java 8 SDK syntax.",
    "simple_javascript": " Note that the provided function is in JavaScript syntax.",
}
_PYTHON_HINT: Final = " Note that the provided function is in Python 3 syntax."


@dataclass(frozen=True, slots=True)
class Entry:
    """Test of BFCL.

    Attributes:
        id: its name in BFCL.
        category: one of `CATEGORIES`.
        turns: the messages of each turn; a turn in which functions become known (`missed`) has none.
        functions: the functions' descriptions as in the files, which is the form that the checkers require.
        answer: the checkers' reference; None for (ir)relevance.
        state: `initial_config` and `involved_classes` of a multi-turn entry.
        missed: names of the functions that become known at a turn -> turn, from 0.
    """

    id: str
    category: str
    turns: tuple[tuple[Message, ...], ...]
    functions: list[dict[str, Any]]
    answer: list[Any] | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)

    def tools(self, turn: int = 0) -> tuple[ToolSpec, ...]:
        """Return the tools offered at a turn."""
        return tuple(
            tool_of(function, self.category)
            for function in self.functions
            if self.missed.get(function["name"], 0) <= turn
        )


def package_folder(path: str | None) -> Path:
    """Return the folder of the installed package `bfcl_eval`, or the one given.

    Raises:
        ConfigError: it is not installed, or the folder does not contain it.
    """
    if path is None:
        found = importlib.util.find_spec("bfcl_eval")  # does not import it
        if found is None or not found.submodule_search_locations:
            raise ConfigError(
                "BFCL needs the package bfcl-eval, which is not installed: pip install --no-deps bfcl-eval mpmath (without "
                "--no-deps it brings 32 packages that are not needed here and replaces versions of others)"
            )
        path = found.submodule_search_locations[0]
    folder = Path(path)
    if not (folder / "data" / "BFCL_v4_simple_python.json").is_file():
        raise ConfigError(
            f"{folder} is no folder of bfcl_eval with the data of BFCL V4: install bfcl-eval 2025.7.17 or newer"
        )
    return folder


def load_entries(folder: Path, category: str) -> list[Entry]:
    """Return all entries of a category, in the order of the file.

    Raises:
        DataError: a file is missing or malformed.
    """
    data = folder / "data"
    rows = _rows(data / f"BFCL_v4_{category}.json")
    answers: Sequence[Any] = [None] * len(rows)
    if category not in (*IRRELEVANCE, *RELEVANCE):
        answers = [row["ground_truth"] for row in _rows(data / "possible_answer" / f"BFCL_v4_{category}.json")]
    functions = (
        {name: _rows(data / "multi_turn_func_doc" / f"{file}.json") for name, file in _FUNCTION_FILES.items()}
        if category in MULTI_TURN
        else {}
    )
    try:
        return [_entry(row, category, answer, functions) for row, answer in zip(rows, answers, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{data}: {category} is not in the format of BFCL V4 ({error!r}); install bfcl-eval again"
        ) from None


def tool_of(function: Mapping[str, Any], category: str) -> ToolSpec:
    """Return a function's description as a tool.

    As in BFCL, a parameter of a Java or JavaScript function is a string with a value in the syntax of that language.
    """
    schema = _schema(function["parameters"])
    if category in _LANGUAGES:
        declared = function["parameters"]["properties"]
        schema["properties"] = {
            name: {"type": "string", "description": _foreign(declared[name], _LANGUAGES[category])} for name in declared
        }
    description = function["description"] + _HINTS.get(category, _PYTHON_HINT)
    return ToolSpec(function["name"], description, schema)


def _entry(row: Mapping[str, Any], category: str, answer: Any, functions: Mapping[str, list[dict[str, Any]]]) -> Entry:
    turns = tuple(tuple(Message(m["role"], m["content"]) for m in turn) for turn in row["question"])
    if category not in MULTI_TURN:
        return Entry(row["id"], category, turns, row["function"], answer)
    return Entry(
        row["id"],
        category,
        turns,
        [function for name in row["involved_classes"] for function in functions[name]],
        answer,
        {key: row[key] for key in ("initial_config", "involved_classes")},
        {name: int(turn) for turn, names in row.get("missed_function", {}).items() for name in names},
    )


def _schema(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a BFCL declaration, without keys that mean nothing there or are used in other senses."""
    schema: dict[str, Any] = {}
    if declared.get("type") in _TYPES:
        schema["type"] = _TYPES[declared["type"]]
    for key in ("description", "default", "enum"):
        if key in declared:
            schema[key] = declared[key]
    if "properties" in declared:
        schema["properties"] = {name: _schema(one) for name, one in declared["properties"].items()}
    if declared.get("required"):
        schema["required"] = declared["required"]
    if "items" in declared:
        schema["items"] = _schema(declared["items"])
    return schema


def _foreign(declared: Mapping[str, Any], language: str) -> str:
    """Return a parameter's description with BFCL's hints on how its value is to be written."""
    kind, text = declared["type"], str(declared.get("description", ""))
    if kind == "any":
        return f"{text} This parameter can be of any type of {language} object in string representation."
    text += f" This is {language} {kind} type parameter in string representation."
    if "items" in declared:
        text += f" The list elements are of type {declared['items']['type']}; they are not in string representation."
    if "properties" in declared:
        text += (
            " The dictionary entries have the following schema; they are not in string representation. "
            + json.dumps(declared["properties"])
        )
    return text


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); install bfcl-eval again") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON lines ({error}); install bfcl-eval again") from None

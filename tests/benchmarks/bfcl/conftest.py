"""BFCL's gold as calls that a model could have written."""

from __future__ import annotations

import ast
import importlib.util

import pytest

from cahl_pl.benchmarks.bfcl.data import MULTI_TURN
from cahl_pl.types import ToolCall


def pytest_collection_modifyitems(items):
    missing = importlib.util.find_spec("bfcl_eval") is None or importlib.util.find_spec("mpmath") is None
    for item in items:
        if missing and "/benchmarks/bfcl/" in item.path.as_posix() and item.path.name != "test_scores.py":
            item.add_marker(pytest.mark.skip("bfcl-eval is not installed: pip install --no-deps bfcl-eval mpmath"))


def first(options):
    """The first acceptable value that is not the mark for "may be left out"; None if there is none."""
    return next(([value] for value in options if value != ""), None)


def plain(value):
    """An acceptable value whose dictionaries hold lists of acceptable values, as a value."""
    if isinstance(value, dict):
        chosen = {key: first(options) if isinstance(options, list) else [options] for key, options in value.items()}
        return {key: plain(one[0]) for key, one in chosen.items() if one is not None}
    return [plain(one) for one in value] if isinstance(value, list) else value


def java(value, kind, inner=None):
    """The value as Java text, of the declared type."""
    if isinstance(value, str):
        return value
    if kind in ("Array", "ArrayList"):
        items = ", ".join(
            f'"{v}"' if kind == "ArrayList" and inner in ("String", "char") else java(v, inner) for v in value
        )
        if kind == "Array":
            return f"new {inner}[]{{{items}}}"
        return f"new ArrayList<{inner}>(Arrays.asList({items}))" if value else f"new ArrayList<{inner}>()"
    if kind == "HashMap":
        puts = "".join(f'put("{k}", {java_value(v)}); ' for k, v in value.items())
        return f"new HashMap<String, Object>() {{{{ {puts}}}}}"
    return java_value(value) + {"long": "L", "float": "f"}.get(kind, "")


def java_value(value):
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def javascript(value, kind):
    """The value as JavaScript text, of the declared type."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(javascript_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {javascript_value(v)}" for k, v in value.items()) + "}"
    return f"{value}n" if kind == "Bigint" else str(value)


def javascript_value(value):
    return f"'{value}'" if isinstance(value, str) else javascript(value, "")


def written(value, declared, category):
    if category == "simple_java":
        return java(value, declared["type"], declared.get("items", {}).get("type"))
    if category == "simple_javascript":
        return javascript(value, declared["type"])
    return value


def calls_of_answer(entry):
    """The calls that BFCL's possible answers stand for, each value the first acceptable one."""
    calls = []
    for answer in entry.answer:
        ((name, parameters),) = answer.items()
        function = next(f for f in entry.functions if f["name"] == name)
        declared, required = function["parameters"]["properties"], function["parameters"]["required"]
        arguments = {}
        for parameter, options in parameters.items():
            chosen = first(options)
            if chosen is None and parameter in required:
                chosen = [[]] if declared[parameter]["type"] == "array" else [""]
            if chosen is not None and (parameter in declared or "" not in options):
                arguments[parameter] = written(plain(chosen[0]), declared.get(parameter), entry.category)
        calls.append(ToolCall(name, arguments))
    return calls


def calls_of_turn(entry, turn):
    """The gold call strings of a turn as calls; arguments without a name get that of the function's parameter."""
    calls = []
    for text in entry.answer[turn]:
        call = ast.parse(text, mode="eval").body
        function = next(f for f in entry.functions if f["name"] == call.func.id)
        names = list(function["parameters"]["properties"])
        arguments = {name: ast.literal_eval(value) for name, value in zip(names, call.args, strict=False)}
        arguments |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        calls.append(ToolCall(call.func.id, arguments))
    return calls


@pytest.fixture(scope="session")
def gold(writing):
    """Makes an `evaluate` that writes the gold of a benchmark's entries."""

    def make(benchmark):
        entries = {entry.id: entry for entry in benchmark.entries}

        def write(task):
            name, _, turn = task.id.partition("/")
            entry = entries[name]
            if entry.category in MULTI_TURN:
                return calls_of_turn(entry, int(turn or 0)) or ["Which one?"]
            if entry.answer is not None:
                return calls_of_answer(entry)
            return ["No function fits."] if "irrelevance" in entry.category else [ToolCall(task.tools[0].name, {})]

        return writing(write)

    return make

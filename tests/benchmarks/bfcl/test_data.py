"""BFCL's entries as tasks: types, languages, functions that become known later, and what is wrong with a folder."""

from __future__ import annotations

import pytest

from cahl_pl.benchmarks.bfcl.data import CATEGORIES, Entry, load_entries, package_folder, tool_of
from cahl_pl.errors import ConfigError
from cahl_pl.schema import check_tool
from cahl_pl.types import Message

COUNTS = {  # of bfcl-eval 2026.3.23
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "irrelevance": 240,
    "live_irrelevance": 884,
    "live_relevance": 16,
    "multi_turn_base": 200,
    "multi_turn_miss_func": 200,
    "multi_turn_miss_param": 200,
    "multi_turn_long_context": 200,
}


@pytest.fixture(scope="module")
def folder():
    return package_folder(None)


def function(**properties):
    parameters = {"type": "dict", "properties": properties, "required": ["a"]}
    return {"name": "f.g", "description": "Does.", "parameters": parameters}


def test_types_become_json_schema():
    tool = tool_of(
        function(
            a={"type": "float", "description": "d", "default": 1.5, "optional": True, "format": "x"},
            b={"type": "tuple", "items": {"type": "integer"}},
            c={"type": "dict", "properties": {"k": {"type": "any", "enum": ["p", "q"]}}, "required": ["k"]},
        ),
        "simple_python",
    )
    assert tool.description == "Does. Note that the provided function is in Python 3 syntax."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "d", "default": 1.5},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {"type": "object", "properties": {"k": {"enum": ["p", "q"]}}, "required": ["k"]},
        },
        "required": ["a"],
    }


def test_values_of_other_languages_are_text():
    declared = function(
        a={"type": "ArrayList", "description": "List.", "items": {"type": "String"}},
        b={"type": "any", "description": "It."},
    )
    tool = tool_of(declared, "simple_java")
    assert tool.description == "Does. Note that the provided function is in Java 8 SDK syntax."
    assert tool.parameters["properties"] == {
        "a": {
            "type": "string",
            "description": "List. This is Java ArrayList type parameter in string representation. The list elements are of "
            "type String; they are not in string representation.",
        },
        "b": {
            "type": "string",
            "description": "It. This parameter can be of any type of Java object in string representation.",
        },
    }
    text = tool_of(function(a={"type": "dict", "properties": {"k": {"type": "String"}}}), "simple_javascript")
    assert text.parameters["properties"]["a"]["description"] == (
        " This is JavaScript dict type parameter in string representation. The dictionary entries have the following schema; "
        'they are not in string representation. {"k": {"type": "String"}}'
    )


def test_a_function_that_was_missed_is_offered_later():
    functions = [{**function(a={"type": "string"}), "name": name} for name in ("f", "g")]
    entry = Entry("e", "multi_turn_miss_func", ((Message("user", "q"),), ()), functions, missed={"g": 1})
    assert [[tool.name for tool in entry.tools(turn)] for turn in (0, 1, 2)] == [["f"], ["f", "g"], ["f", "g"]]


@pytest.mark.parametrize("category", CATEGORIES)
def test_all_entries_are_read(folder, category):
    entries = load_entries(folder, category)
    assert len(entries) == len({entry.id for entry in entries}) == COUNTS[category]
    for entry in entries[::25]:
        for tool in entry.tools():
            check_tool(tool, entry.id)


def test_missed_functions_are_those_of_the_files(folder):
    entry = load_entries(folder, "multi_turn_miss_func")[0]
    assert (entry.missed, entry.turns[3]) == ({"sort": 3}, ())
    assert entry.state["involved_classes"] == ["TwitterAPI", "GorillaFileSystem"]


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="is no folder of bfcl_eval"):
        package_folder(str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps bfcl-eval mpmath"):
        package_folder(None)

"""The first sentence of a description: where it ends, and what is left out of it."""

from __future__ import annotations

import time

import pytest

from cahl_pl.prompts.tool_text import MAX_WORDS, first_sentence, tool_text
from cahl_pl.types import ToolSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # where a sentence ends
        ("Adds two numbers. Returns their sum.", "Adds two numbers"),
        ("Adds two numbers", "Adds two numbers"),
        ("  Is it open? Says so.", "Is it open?"),
        ("", ""),
        (" \n\n ", ""),
        ("...", ""),
        (
            "Reads U.S. data of v1.2 above 2.5 in St. Louis. Slow.",
            "Reads U.S. data of v1.2 above 2.5 in St. Louis",
        ),
        ("Rates noise, contrast etc. of photos. Slow.", "Rates noise, contrast etc. of photos"),
        ("Rates noise, contrast etc. Slow.", "Rates noise, contrast etc"),
        ("Counts days since 2019. Slow.", "Counts days since 2019"),
        ('Says "hello." Then stops.', 'Says "hello."'),
        ("Waits... then answers. Slow.", "Waits... then answers"),
        ("Stores it in the database.Function: stores it.", "Stores it in the database"),
        ("Lists holidays of the Nager.Date API of asp.net. Slow.", "Lists holidays of the Nager.Date API of asp.net"),
        ("\u67e5\u8be2\u5929\u6c14\u3002\u53ea\u8981\u57ce\u5e02\u3002", "\u67e5\u8be2\u5929\u6c14"),
        # lines
        ("Gets the weather\nof a city.\nSlow.", "Gets the weather of a city"),
        ("Gets the weather\n\nof a city.", "Gets the weather"),
        ("Gets the weather of\n  - a city\n  - a country", "Gets the weather of"),
        ("Gets the weather\n    Args:\n        city: where", "Gets the weather"),
        ("# Weather\r\nGets it.", "Weather Gets it"),
        ("1. Gets the weather. 2. Shows it.", "Gets the weather"),
        # what is left out
        ("Finds a case by its name. e.g. SensorX09", "Finds a case by its name"),
        ("Finds a case (e.g., the fifth) by name.", "Finds a case by name"),
        ("Finds a case, e.g. the fifth. Slow.", "Finds a case"),
        ("Finds details (such as size) of a drawing, for example the frame.", "Finds details of a drawing"),
        ("For example, finds a case.", "For example, finds a case"),
        (
            "**Finds** a `case` by *name* in <b>all</b> [our files](https://a.b/c).",
            "Finds a case by name in all our files",
        ),
        ("Multiplies 0.5 * base * height of snake_case__names.", "Multiplies 0.5 * base * height of snake_case__names"),
        ("Finds a case at https://a.b/c?d=1. Slow.", "Finds a case"),
        ("Finds a case (see www.a.b) by name.", "Finds a case by name"),
        ("Finds a case. See https://a.b. Slow.", "Finds a case"),
        ("https://a.b: finds a .NET case.", "finds a .NET case"),
        ("See https://a.b/c", ""),
        ("This tool belongs to the Math API, etc. Tool description: Add two numbers.", "Add two numbers"),
        ("Tool description:", "Tool description"),
    ],
)
def test_first_sentence(text, expected):
    assert first_sentence(text) == expected


def test_a_long_sentence_is_cut():
    words = [f"w{i}" for i in range(MAX_WORDS + 1)]
    assert first_sentence(" ".join(words)) == " ".join(words[:MAX_WORDS])
    assert first_sentence(" ".join(words[:MAX_WORDS])) == " ".join(words[:MAX_WORDS])
    assert first_sentence("Lists cities, names, and the rest", max_words=5) == "Lists cities, names"
    assert first_sentence("Lists what it is based on", max_words=6) == "Lists what it is based on"  # nothing is cut off
    assert first_sentence("the the the", max_words=2) == "the"


@pytest.mark.parametrize(
    "piece",
    [
        "a. ",
        "e.g. ",
        "(",
        "(e.g. ",
        "[",
        "[a](",
        "<a",
        "*",
        "**a*",
        "www.",
        "\n",
        " ",
        "-",
        "- ",
        "a.B",
        ".",
        "Tool description: ",
    ],
)
def test_any_text_takes_linear_time(piece):
    start = time.process_time()
    line = first_sentence(piece * 20_000)
    assert time.process_time() - start < 1  # milliseconds; quadratic ones take minutes
    assert "\n" not in line


ORDER = ToolSpec(
    "order",
    "Order.",
    {
        "type": "object",
        "$defs": {
            "Item": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "size": {"$ref": "#/$defs/Size"}, "n": {"type": "integer"}},
                "required": ["sku", "size"],
            },
            "Size": {"enum": ["S", "M"], "type": "string"},
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
        },
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
            "ship_to": {"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]},
            "on": {"type": "string", "format": "date"},
            "tags": {"type": ["array", "null"], "items": {"type": "string"}},
            "note": {"type": "string", "nullable": True},
            "free": {"type": "object"},
            "tree": {"$ref": "#/$defs/Node"},
        },
        "required": ["items"],
    },
)


def test_nested_keys_and_references_are_written_out():
    assert tool_text(ORDER, "compact") == (
        "order(items: [{sku: string, size: S|M, n?: integer}], ship_to?: S|M|null, on?: date, tags?: [string]|null, "
        "note?: string|null, free?: object, tree?: {next?: {next?: {next?: {next?: object}}}}): Order."
    )


def test_many_values_inside_are_a_type_in_brief():
    size = {"enum": [f"u{i}" for i in range(9)], "type": "string"}
    tool = ToolSpec("f", "", {"type": "object", "properties": {"x": {"type": "array", "items": size}}})
    assert tool_text(tool, "brief") == "f(x?: [string])"


def test_what_holds_together_is_written_as_one():
    item = {"allOf": [{"$ref": "#/$defs/Size"}], "description": "As pydantic wrote it."}
    schema = {"type": "object", "$defs": {"Size": {"enum": ["S", "M"]}}, "properties": {"size": item}}
    assert tool_text(ToolSpec("f", "", schema), "compact") == "f(size?: S|M): "

"""A request on the command line is text, whatever YAML would make of it."""

from __future__ import annotations

import pytest
import yaml

from cahl_pl.commands.configured import read_config
from cahl_pl.startup.text_options import Text, mark_text


@pytest.mark.parametrize(
    "text",
    [
        "Mail Bob: we are late",
        "- first do a",
        "null",
        '"quoted: x"',
        "say 'hi'",
        "# x",
        "[1]",
        "{a",
        "5",
        "true",
        "a\nb: c",
    ],
)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_a_request_is_text(text, form):
    option = "--data.requests.init_args.source"
    words = [option, text] if form == "two words" else [f"{option}={text}"]
    config = read_config(["-c", "quickstart", "--data.requests", "cahl_pl.datasets.Requests", *words])
    found = config.data.requests.init_args.source
    assert (found, type(found)) == (text, str)
    assert yaml.safe_dump({"source": found})


def test_other_words_stay_as_they_are():
    words = ["predict", "--data.requests.source", "a: b", "--data.test.x.init_args.names", "[a]", "--seed=1"]
    marked = mark_text(words)
    assert marked == words
    assert [type(word) is Text for word in marked] == [False, False, True, False, False, False]
    assert mark_text(["--data.requests.source=-x"]) == [
        "--data.requests.source=-x"
    ]  # argparse would take -x for an option
    assert mark_text(["--data.requests.source"]) == ["--data.requests.source"]

from __future__ import annotations

import pytest

from cahl_pl.python_tools.docstrings import read_docstring


def test_nothing_is_said():
    for text in (None, "", "  \n "):
        assert read_docstring(text).description == ""


@pytest.mark.parametrize(
    ("text", "parameters", "types"),
    [
        ("Do.\n\nArgs:\n    x (int): It.\n    y: That,\n        too.", {"x": "It.", "y": "That, too."}, {"x": "int"}),
        ("Do.\n\nParameters:\n    x: It.", {"x": "It."}, {}),
        (
            "Do.\n\nParameters\n----------\nx, y : float\n    Both.",
            {"x": "Both.", "y": "Both."},
            dict.fromkeys("xy", "float"),
        ),
        ("Do.\n\n:param x: It.\n:type x: int\n:returns: n", {"x": "It."}, {"x": "int"}),
        ("Do.\n\n:param x (Optional[str]): It.\n:rtype: str", {"x": "It."}, {"x": "Optional[str]"}),
        ("Do.\n\n:param x (Dict[str, Any]): It.", {"x": "It."}, {"x": "Dict[str, Any]"}),
        ("Do.\n\n@param x: It.\n@type x: int", {"x": "It."}, {"x": "int"}),
        ("Do.", {}, {}),
    ],
)
def test_styles(text, parameters, types):
    found = read_docstring(text)
    assert (found.description, found.parameters, found.types) == ("Do.", parameters, types)


def test_more_than_one_paragraph():
    assert (
        read_docstring("Do.\n\n    Much more\n    of it.\n\n    Args:\n        x: It.\n").description
        == "Do.\n\nMuch more\nof it."
    )


def test_choices_as_transformers_reads_them():
    found = read_docstring('Do.\n\nArgs:\n    x: It. (choices: ["a", "b"])\n    y: It. (choices: some)')
    assert found.choices == {"x": ["a", "b"]}
    assert found.parameters == {"x": "It.", "y": "It. (choices: some)"}


def test_what_no_style_fits_is_a_description():
    text = "Do.\n\nArgs:\n    a line without a colon\n"
    assert read_docstring(text).description.startswith("Do.")


@pytest.mark.parametrize(
    "text",
    [
        "Do.\n\n>>> do(1)\n2\n\nArgs:\n    x: It.",
        "Do.\n\nArgs:\n    x: It.\n\n        >>> do(1)\n        2\n",
        "Do.\n\nArgs:\n    x: It.\n        >>> for i in [1]:\n        ...     do(i)\n        2\n\n",
        "Do.\n\n>>> do(1)\nArgs:\n    x: It.",
        "Do.\n\n:param x: It.\n\n>>> do(1)\n2",
        "Do.\n\n:param x: It.\n\nMore of something else.\n\n:returns: n",
        "Do.\n\n@param x: It.\n\n>>> do(1)\n2",
        "Do.\n\nParameters\n----------\nx : int\n    It.\n\nExamples\n--------\n>>> do(1)\n2",
    ],
)
def test_examples_and_what_follows_the_parameters_are_no_part_of_a_description(text):
    found = read_docstring(text)
    assert (found.description, found.parameters) == ("Do.", {"x": "It."})


def test_a_docstring_of_an_example_alone_says_nothing():
    assert read_docstring(">>> do(1)\n2").description == ""

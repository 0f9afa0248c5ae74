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

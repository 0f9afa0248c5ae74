"""What is given as tools and is no Python file: one sentence that says what forms are taken."""

from __future__ import annotations

import pytest

from cahl_pl.environments.tool_sources import tools_of
from cahl_pl.errors import ConfigError

FORMS = (
    "tools are the functions of a .py file or of a module that Python finds, such as package.my_tools, the methods of a"
)


@pytest.mark.parametrize("name", ["rows.jsonl", "tools.yaml", "tools.txt", "tools.js", "notes.ipynb", "mine"])
def test_a_file_of_another_kind(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text("hello\n")
    for given in (str(path), name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as raised:
            tools_of(given)
        assert str(raised.value).startswith(f"{given!r} is no Python file; {FORMS}")


def test_a_folder_and_no_name(tmp_path, monkeypatch):
    (tmp_path / "folder_of_tools").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"'folder_of_tools' is a folder without an __init__\.py; tools are the functions"
    ):
        tools_of("folder_of_tools")
    with pytest.raises(ConfigError, match="the module of Python tools has no name; tools are the functions"):
        tools_of("")


def test_a_python_file_may_end_in_capitals(tmp_path):
    path = tmp_path / "TOOLS.PY"
    path.write_text('def look(city: str) -> str:\n    """Look."""\n    return city\n')
    assert [tool.name for tool in tools_of(str(path))] == ["look"]

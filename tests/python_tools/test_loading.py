"""Files of tools that cannot be imported: one sentence that says why, where, and what to do."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cahl_pl.environments import PythonTools
from cahl_pl.environments.tool_sources import tools_of
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.import_path import import_function
from cahl_pl.python_tools.loading import load

GOOD = 'def ping(host: str) -> str:\n    """Ping a host."""\n    return host\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nimport qwertz_db\n", "{path}, line 2: the package 'qwertz_db' is not installed; pip install qwertz-db (or"),
        ("from qwertz import cv\n", "{path}, line 1: the package 'qwertz' is not installed; pip install qwertz "),
        ("import keyword.qwertz\n", "No module named 'keyword.qwertz'; 'keyword' is not a package"),
        ("import email.qwertz\n", "the package 'email' has no module 'email.qwertz'; install a version that has"),
        ("from . import other\n", "it is a part of a package (attempted relative import"),
        ("from json import qwertz\n", "cannot import name 'qwertz' from 'json'"),
        ("def f(:\n", "invalid syntax"),
        ("raise SystemExit\n", "it exits when it is imported"),
    ],
)
def test_why_a_file_cannot_be_imported(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "my_tools.py"
    path.write_text(text + GOOD)
    with pytest.raises(ConfigError) as raised:
        PythonTools(str(path))
    assert str(raised.value).startswith(f"the Python tools {str(path)!r} cannot be imported")
    assert said.format(path=path) in str(raised.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD.encode("utf-16"), "the file is UTF-16, not UTF-8; convert it to UTF-8: iconv -f UTF-16 -t UTF-8 "),
        (GOOD.encode("utf-16-be"), "the file is UTF-16, not UTF-8; convert it to UTF-8: iconv -f UTF-16BE -t UTF-8 "),
        (GOOD.replace("host.", "h\xf4te.").encode("latin-1"), "byte 43 is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_told_how_to_be_converted(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "my_tools.py"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        PythonTools(str(path))
    assert said in str(raised.value)
    assert str(raised.value).endswith(f"{path} > {tmp_path / 'my_tools.utf8.py'}")


def test_a_file_that_says_its_encoding_and_one_with_a_mark_are_read(tmp_path: Path) -> None:
    said = "# -*- coding: latin-1 -*-\n" + GOOD.replace("a host", "une h\xf4te")
    (tmp_path / "said.py").write_bytes(said.encode("latin-1"))
    (tmp_path / "marked.py").write_bytes(GOOD.encode("utf-8-sig"))
    assert PythonTools(str(tmp_path / "said.py")).specs[0].description == "Ping une h\xf4te."
    assert PythonTools(str(tmp_path / "marked.py")).specs[0].name == "ping"


def test_the_package_that_a_helper_misses_is_named_with_the_helpers_line(tmp_path: Path) -> None:
    (tmp_path / "cahl_test_helper.py").write_text("x = 1\nimport qwertz_sub\n")
    (tmp_path / "my_tools.py").write_text("import cahl_test_helper\n" + GOOD)
    with pytest.raises(ConfigError) as raised:
        PythonTools(str(tmp_path / "my_tools.py"))
    assert f"{tmp_path / 'cahl_test_helper.py'}, line 2: the package 'qwertz_sub' is not installed" in str(raised.value)


def test_files_beside_the_tools_are_found_and_take_no_packages_place(tmp_path: Path) -> None:
    (tmp_path / "cahl_test_beside.py").write_text("from json import dumps\nN = dumps(5)\n")
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    (tmp_path / "my_tools.py").write_text("import json\nfrom cahl_test_beside import N\n" + GOOD)
    assert [tool.name for tool in PythonTools(str(tmp_path / "my_tools.py")).specs] == ["ping"]


def test_modules_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cahl_test_module.py").write_text("import qwertz\n")
    with pytest.raises(
        ConfigError, match=r"cannot be imported: .*line 1: the package 'qwertz' is not installed; pip install"
    ):
        PythonTools("cahl_test_module")
    with pytest.raises(ConfigError, match="line 1: the package 'qwertz' is not installed"):
        import_function("cahl_test_module.make", "toolkit")
    for name in ("cahl_test_no_such", "cahl_test_no_such.inner"):
        with pytest.raises(ConfigError, match=r"give the path of a .py file, or a module that Python finds"):
            PythonTools(name)


@pytest.mark.parametrize("text", ["[]", "{", '{"tools": []}'])
def test_a_json_file_is_read_as_one_of_servers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(text)
    with pytest.raises(UserError, match="MCP servers"):
        tools_of(str(path))
    path.write_bytes('{"mcpServers": {"t": {"command": "x"}}}'.encode("utf-16"))
    with pytest.raises(UserError, match="the file is UTF-16, not UTF-8; convert it to UTF-8: iconv -f UTF-16 "):
        tools_of(str(path))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('x = 1\nCONFIG = {}["KEY"]\n', "line 2: KeyError: 'KEY'"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
        ('name = input("your name? ")\n', "line 1: EOFError: "),
    ],
)
def test_what_a_module_raises_when_it_is_imported_is_told_with_its_line(tmp_path, monkeypatch, source, words):
    monkeypatch.setattr("sys.stdin", io.StringIO("bob\n"))
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ConfigError) as raised:
        load(str(tmp_path / "mine.py"))
    assert words in str(raised.value)
    assert sys.stdin.read() == "bob\n"  # the program's own


def test_what_a_module_prints_is_no_output_of_the_program(tmp_path, capsys):
    (tmp_path / "loud.py").write_text('print("loading tools ...")\n')
    load(str(tmp_path / "loud.py"))
    assert capsys.readouterr() == ("", "loading tools ...\n")

"""Files of tools that cannot be imported: one sentence that says why, where, and what to do."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cahl_pl.environments import ExecutableEnvironment, PythonTools, PythonToolsEnvironment
from cahl_pl.environments.tool_sources import tools_of
from cahl_pl.errors import ConfigError, Interrupted, UserError
from cahl_pl.import_path import import_function
from cahl_pl.python_tools.loading import load
from cahl_pl.types import Message, Task, ToolCall

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


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\nraise KeyboardInterrupt\n", "(line 2: it was interrupted while it was imported); correct the file"),
        ("import sys\n\nsys.exit()\n", "(line 3: it exits when it is imported); correct the file"),
        ("def f():\n    raise GeneratorExit\n\n\nf()\n", "line 2: GeneratorExit"),
    ],
)
def test_what_is_no_exception_of_a_module_is_told_too(tmp_path, monkeypatch, source, words):
    (tmp_path / "quits_19.py").write_text(source)
    with pytest.raises(ConfigError) as raised:
        load(str(tmp_path / "quits_19.py"))
    assert words in str(raised.value)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("load", "import_function"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            load("quits_19") if module == "load" else import_function("quits_19.f", "toolkit")


def test_a_request_to_stop_passes_through_a_modules_import(tmp_path):
    (tmp_path / "slow.py").write_text("from cahl_pl.errors import Interrupted\n\nraise Interrupted(143)\n")
    with pytest.raises(Interrupted):
        load(str(tmp_path / "slow.py"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop.py::Shop", "write shop.py:Shop, the file or module, one colon and the class, or shop.py alone"),
        ("shop.py:", "write shop.py:Shop, "),
        ("shop.py:Shop:take", "write shop.py:Shop, "),
        ("shop.py:Shop.take", "a row that offers take alone names it in `tools`"),
        ("shop.py:Shop()", "write shop.py:Shop, "),
        ("shop.py: Shop", "write shop.py:Shop, "),
        (":Shop", "write my_tools.py:Shop, "),
        ("./shop:Shop", "write ./shop.py:Shop, "),
        ("shop.Shop", "a class comes after a colon: shop:Shop"),
        ("shop.py.Shop", "a class comes after a colon: shop.py:Shop"),
    ],
)
def test_names_that_are_no_class_are_one_sentence_with_the_right_one(name, said):
    for make in (PythonTools, ExecutableEnvironment):
        if ":" not in name and make is ExecutableEnvironment:
            continue
        with pytest.raises(ConfigError) as raised:
            make(name)
        assert said in str(raised.value)


def test_a_function_in_the_place_of_a_class_and_a_class_without_instances(tmp_path):
    path = tmp_path / "my_tools.py"
    path.write_text(
        f"import abc\nfrom typing import Protocol\n\n{GOOD}\n"
        "class Plan(abc.ABC):\n    @abc.abstractmethod\n    def take(self) -> int:\n        'Take.'\n\n"
        "class Like(Protocol):\n    def take(self) -> int:\n        'Take.'\n"
    )
    with pytest.raises(ConfigError, match=r"ping is a function, not a class: give .*my_tools.py alone"):
        PythonTools(f"{path}:ping")
    with pytest.raises(ConfigError, match=r"Plan is abstract \(without take\), so that no session"):
        PythonTools(f"{path}:Plan")
    with pytest.raises(ConfigError, match="Like is abstract"):
        PythonTools(f"{path}:Like")


def test_functions_without_a_docstring_are_named_once(tmp_path, recwarn):
    path = tmp_path / "my_tools.py"
    path.write_text(f"{GOOD}\ndef helper():\n    pass\n")
    for _ in range(3):
        PythonTools(str(path))
        PythonToolsEnvironment(str(path))
    assert [str(one.message) for one in recwarn] == [f"{path}: functions without a docstring are not offered: helper"]


def test_a_file_or_a_class_is_the_toolkit_of_an_environment(tmp_path):
    path = tmp_path / "my_tools.py"
    path.write_text(
        f"{GOOD}\nclass Net:\n    def ping(self, host: str) -> str:\n        'Ping.'\n        return host * 2\n"
    )
    specs = PythonTools(str(path)).specs
    task = Task("t", (Message("user", "?"),), specs)
    for toolkit, answer in ((str(path), '"a"'), (f"{path}:Net", '"aa"')):
        assert ExecutableEnvironment(toolkit).start(task).call(ToolCall("ping", {"host": "a"})).text == answer


def test_a_module_that_is_found_and_cannot_be_imported_is_to_be_corrected(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "found_and_broken.py").write_text("x = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as raised:
        PythonTools("found_and_broken")
    assert str(raised.value) == (
        "the module 'found_and_broken' of Python tools cannot be imported (ZeroDivisionError: division by zero); correct it"
    )


def test_a_file_that_changes_the_folder_leaves_the_programs_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_tools.py"
    path.write_text(f"import os\nos.chdir('/')\n{GOOD}")
    PythonTools(str(path))
    assert Path.cwd() == tmp_path


def test_a_type_that_is_imported_for_type_checkers_alone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "my_tools.py"
    text = "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    text += '    from datetime import date\ndef f(day: date) -> str:\n    """Say when."""\n    return str(day)\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"'date' is not defined\); import date outside of `if TYPE_CHECKING:`"):
        PythonTools(str(path))

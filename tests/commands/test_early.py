"""What is said before the libraries are loaded, and how a command ends that is interrupted or fails in a user's own file."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cahl_pl.commands import console, notice_of_loading, trainer
from cahl_pl.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ckpt_path", "runs/nothing.ckpt"], "--ckpt_path names 'runs/nothing.ckpt', which does not exist: give a "),
        (["--ckpt_path=no.ckpt", "-c", "quickstart"], "--ckpt_path names 'no.ckpt', which does not exist: give a "),
        (["--ckpt_path", "."], "--ckpt_path names '.', which is a folder: give a checkpoint in it, or `last`"),
        (["-c", "quickstrat"], "the configuration quickstrat is neither a file nor one that ships; did you mean quickstart?"),
    ],
)
def test_files_that_are_not_there_are_told_before_the_libraries_are_loaded(monkeypatch, words, said):
    monkeypatch.setitem(sys.modules, "cahl_pl.cli", None)  # importing it fails
    with pytest.raises(ConfigError) as raised:
        trainer.fit(words)
    assert str(raised.value).startswith(said)


def test_the_check_loads_no_library():
    program = (
        "import sys\nfrom cahl_pl.commands import console\n"
        "try: console(['fit', '-c', 'quickstart', '--ckpt_path', 'no.ckpt'])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'jsonargparse'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr.startswith("error: --ckpt_path names 'no.ckpt', which does not exist")


def test_long_loading_is_told(monkeypatch, capsys):
    monkeypatch.setattr("cahl_pl.commands.PATIENCE_S", 0.01)
    with notice_of_loading():
        time.sleep(0.2)
    assert capsys.readouterr().err == "loading PyTorch, Lightning and transformers ...\n"
    monkeypatch.setattr("cahl_pl.commands.PATIENCE_S", 60.0)
    with notice_of_loading():
        pass
    assert capsys.readouterr().err == ""


@pytest.fixture
def verb(monkeypatch):
    """Has `env` do something else."""

    def set_to(run):
        monkeypatch.setattr("cahl_pl.commands.env.main", run)

    monkeypatch.delenv("CAHL_TRACEBACK", raising=False)
    return set_to


def test_an_interrupted_command_says_so(verb, capsys):
    def run(arguments):
        raise KeyboardInterrupt

    verb(run)
    with pytest.raises(SystemExit) as stopped:
        console(["env"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_run_that_lightning_ends_when_it_is_interrupted_says_so_too(verb, capsys):
    def run(arguments):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    verb(run)
    with pytest.raises(SystemExit) as stopped:
        console(["env"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


OWN = "def f(x):\n    return {}[x]\ndef g():\n    import json\n    json.loads('[')\ndef h():\n    raise RuntimeError('a\\nb')\n"
OWN += "def i():\n    raise SystemExit(0)\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("f('a')", "line 2: f raised KeyError ('a')"),
        ("g()", "line 5: g raised JSONDecodeError (Expecting value: line 1 column 2 (char 1))"),
        ("h()", "line 7: h raised RuntimeError (a b)"),
        ("i()", "line 9: i raised SystemExit (0)"),
        ("open('/nowhere/x')", None),
    ],
)
def test_an_error_of_a_users_own_file_is_told_with_its_line(verb, capsys, tmp_path, call, said):
    path = tmp_path / "mine.py"
    path.write_text(OWN + (f"\n{call}\n" if said is None else ""))
    said = said or "line 11: <module> raised FileNotFoundError ([Errno 2] No such file or directory: '/nowhere/x')"

    def run(arguments):
        names = {}
        exec(compile(path.read_text(), str(path), "exec"), names)
        eval(call, names)

    run.__module__ = "cahl_pl.commands.env"
    verb(run)
    with pytest.raises(SystemExit) as stopped:
        console(["env"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}, {said}: correct it (CAHL_TRACEBACK=1 shows the traceback)")


def test_a_function_of_a_users_own_with_other_parameters_is_told_with_its_line(verb, capsys, tmp_path):
    path, names = tmp_path / "mine.py", {}
    path.write_text("class Mine:\n    def on_end(self, trainer):\n        pass\n")
    exec(compile(path.read_text(), str(path), "exec"), names)
    program = "def run(arguments):\n    fn = mine.on_end\n    fn(1, 2)\n"
    scope = {"mine": names["Mine"]()}
    exec(compile(program, "<a library>", "exec"), scope)
    verb(scope["run"])
    with pytest.raises(SystemExit):
        console(["env"])
    assert capsys.readouterr().err == (
        f"error: {path}, line 2: Mine.on_end has other parameters than it is called with (TypeError (Mine.on_end() takes 2 "
        "positional arguments but 3 were given)): correct them\n"
    )


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("cahl_pl.commands.VERBS", {"env": ("env:main", "x")})
    monkeypatch.setattr("cahl_pl.commands.env.platform", None)  # what it uses itself
    with pytest.raises(AttributeError):
        console(["env"])

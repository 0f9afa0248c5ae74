"""The table of verbs: help comes at once and fits a screen, an unknown verb is one sentence, errors are one sentence."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cahl_pl import __version__
from cahl_pl.commands import VERBS, console, trainer
from cahl_pl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning", "transformers", "matplotlib", "yaml", "numpy")


@pytest.fixture
def verb(monkeypatch):
    """Replaces what a verb does."""

    def replace(function):
        monkeypatch.setitem(VERBS, "env", ("replaced:main", "for a test"))
        monkeypatch.setattr(pkgutil, "resolve_name", lambda name: function)

    return replace


@pytest.fixture
def screen(monkeypatch, capsys):
    """Prints a help; its lines."""
    monkeypatch.setenv("COLUMNS", "120")

    def show(*words):
        with suppress(SystemExit):  # argparse ends the program after its help
            console(words)
        return capsys.readouterr().out.splitlines()

    return show


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)], ids=lambda words: " ".join(words) or "no verb")
def test_every_help_fits_a_screen(words, screen):
    lines = screen(*words, "--help")
    assert lines[0].startswith(" ".join(["usage: cahl-pl", *(words or ["VERB"])]))
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


def test_without_a_verb_the_help_is_printed(screen):
    lines = screen()
    assert lines == screen("--help")
    for verb, (_, what) in VERBS.items():
        assert sum(line.split() == [verb, *what.split()] for line in lines) == 1


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["fit", "--help"], ["predict", "-h"]])
def test_help_imports_nothing_heavy(words):
    code = f"import sys\nfrom cahl_pl.commands import console\nconsole({words})\n"
    code += f"sys.exit(' '.join(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "\n"), done.stderr


def test_the_version_is_told(screen):
    assert screen("--version") == [f"cahl-pl {__version__}"]


def test_an_unknown_verb_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        console(["reprot", "runs"])
    assert capsys.readouterr().err == "error: there is no verb 'reprot'; did you mean report?\n"
    with pytest.raises(SystemExit, match="2"):
        console(["xyzzy"])
    assert capsys.readouterr().err.startswith("error: there is no verb 'xyzzy'; there are fit, validate, ")
    with pytest.raises(SystemExit, match="2"):
        console(["-c", "quickstart", "fit"])
    assert (
        capsys.readouterr().err
        == "error: there is no verb before -c: it comes first, as in cahl-pl fit -c quickstart\n"
    )


def test_every_verb_leads_to_a_function_and_every_module_of_one_is_in_the_table():
    modules = set()
    for place, _ in VERBS.values():
        assert callable(pkgutil.resolve_name(f"cahl_pl.commands.{place}"))
        modules.add(place.split(":")[0].split(".")[0])
    files = {path.stem for path in (ROOT / "cahl_pl" / "commands").iterdir() if not path.stem.startswith("__")}
    assert files - modules == {"configured", "fit_runs", "pipes"}  # what several verbs share


def test_the_words_after_the_verb_and_the_status_are_passed_on(verb):
    given = []
    verb(lambda words: given.append(words) or 1)
    with pytest.raises(SystemExit, match="1"):
        console(["env", "--a", "b"])
    assert given == [["--a", "b"]]
    verb(lambda words: None)
    console(["env"])


@pytest.fixture
def ours(monkeypatch):
    """Has this file counted as one of the package: what a user's own raises is told with its line."""
    monkeypatch.setattr("cahl_pl.errors.own_code._is_users", lambda file: False)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConfigError("say this"), "say this"),
        (FileExistsError(17, "File exists", "/x/y"), "/x/y: File exists; put that right and start again"),
        (
            OSError(28, "No space left on device"),
            "a file cannot be written (No space left on device): make room, or write to another disk, and start again",
        ),
        (
            ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"),
            'matplotlib is not installed: pip install "cahl-pl[report]"',
        ),
    ],
)
def test_what_a_user_can_put_right_is_one_sentence_for_every_verb(verb, error, sentence, capsys, monkeypatch):
    def fail(words):
        raise error

    verb(fail)
    with pytest.raises(SystemExit, match="2"):
        console(["env"])
    assert capsys.readouterr().err == f"error: {sentence}\n"
    monkeypatch.setenv("CAHL_TRACEBACK", "1")
    with pytest.raises(type(error)):
        console(["env"])


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("of no file"), ModuleNotFoundError(name="torch")])
def test_a_defect_keeps_its_traceback(verb, error):
    def fail(words):
        raise error

    verb(fail)
    with pytest.raises(type(error)):
        console(["env"])


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cahl_pl", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_short_help_names_keys_that_there_are(monkeypatch):
    from cahl_pl.cli import CAHLCLI, known_keys, main

    parsers = {}
    monkeypatch.setattr(CAHLCLI, "parse_arguments", lambda self, parser, args: parsers.update(self._subcommand_parsers))
    with pytest.raises(AttributeError):  # nothing has been parsed
        main(["fit"])
    for name in trainer.KEYS:
        known = known_keys(parsers[name])
        for told, _ in trainer.KEYS[name]:
            for key in told.split(", "):
                key = key.split()[0].removesuffix("+=CLASS").removesuffix(".NAME")
                assert key in known, (name, key)


def test_all_options_are_shown_by_lightnings_own_help(monkeypatch):
    given = []
    monkeypatch.setattr("cahl_pl.cli.main", given.append)
    trainer.run("fit", ["--help-all"])
    trainer.run("test", ["-c", "quickstart", "--data.seed=1"])
    assert given == [["fit", "--help"], ["test", "-c", "quickstart", "--data.seed=1"]]

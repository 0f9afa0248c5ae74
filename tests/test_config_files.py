"""Configurations are found: the user's own file first, else a shipped one by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cahl_pl.cli import main
from cahl_pl.commands import console
from cahl_pl.config_files import SHIPPED, find_config, find_configs_in, shipped_names
from cahl_pl.errors import ConfigError

FILES = sorted(path.relative_to(SHIPPED) for path in SHIPPED.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_some():
    assert Path("quickstart.yaml") in FILES
    assert Path("recipes/toolrl.yaml") in FILES
    assert len(FILES) == len(shipped_names())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_shipped_configuration_is_found_by_name_from_an_empty_folder(file):
    name = file.with_suffix("").as_posix()
    for given in (name, f"{name}.yaml", f"configs/{name}", f"configs/{name}.yaml"):
        assert Path(find_config(given)).samefile(SHIPPED / file)


def test_a_file_of_the_users_wins(empty):
    (empty / "quickstart").write_text("a: 1\n")
    assert find_config("quickstart") == "quickstart"
    assert Path(find_config("quickstart.yaml")).samefile(SHIPPED / "quickstart.yaml")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("quickstrat", "did you mean quickstart?"),
        ("configs/quikstart.yaml", "did you mean quickstart?"),
        ("toolrl", "did you mean recipes/toolrl?"),
        ("configs/recipe/toolrl.yaml", "did you mean recipes/toolrl?"),
        ("../configs/zzz.yaml", "`cahl-pl --help` names those that ship"),
        ("", "`cahl-pl --help` names those that ship"),
    ],
)
def test_a_name_that_is_neither_is_one_sentence_with_the_nearest_names(given, hint):
    with pytest.raises(ConfigError) as raised:
        find_config(given)
    sentence = str(raised.value)
    assert sentence.startswith(f"the configuration {given} is neither a file nor one that ships; ")
    assert hint.removesuffix("?") in sentence


def test_a_folder_is_named_as_one(empty):
    (empty / "runs").mkdir()
    with pytest.raises(ConfigError, match="the configuration runs is a folder: give a file"):
        find_config("runs")


def test_only_configurations_are_replaced():
    path = str(SHIPPED / "quickstart.yaml")
    words = [
        "fit",
        "-c",
        "quickstart",
        "--config",
        "quickstart",
        "--config=quickstart",
        "-c=quickstart",
        "-cquickstart",
    ]
    assert find_configs_in([*words, "--x", "quickstart", "-c"]) == [
        *(
            "fit",
            "-c",
            path,
            "--config",
            path,
            f"--config={path}",
            f"-c={path}",
            f"-c{path}",
            "--x",
            "quickstart",
            "-c",
        ),
    ]
    assert find_configs_in(["-c", '{"a": 1}']) == ["-c", '{"a": 1}']  # the content itself


def test_the_command_line_takes_names_anywhere(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", "quickstart", "-c", "ablations/freeze_low", "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["schedule"]["class_path"] == "cahl_pl.schedules.PlannerOnly"


@pytest.mark.parametrize("verb", ["plan-memory", "show-prompt"])
def test_a_verb_says_what_is_near(verb, capsys):
    with pytest.raises(SystemExit, match="2"):
        console([verb, "-c", "quickstat"])
    error = capsys.readouterr().err
    assert (
        error == "error: the configuration quickstat is neither a file nor one that ships; did you mean quickstart?\n"
    )

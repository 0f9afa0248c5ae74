"""What a newcomer gets wrong first: each is one sentence that says what to do, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cahl_pl.cli import main
from cahl_pl.commands import VERBS, console
from cahl_pl.errors import ConfigError


@pytest.fixture
def told(capfd, monkeypatch, tmp_path):
    """Runs a command that is refused; what it prints as its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAHL_TRACEBACK", raising=False)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            console(words)
        assert stopped.value.code == 2
        error = capfd.readouterr().err
        assert "usage:" not in error
        assert "Traceback" not in error
        return error[error.index("error: ") + 7 :].rstrip("\n")

    return run


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_without_a_configuration_one_is_asked_for(told, verb):
    assert told(verb) == (
        "nothing says what data.train and data.environment are: give a configuration with -c, a file or the name of one that "
        f"ships, as in cahl-pl {verb} -c quickstart; or --data.train cahl_pl.datasets.JsonlDataset --data.environment "
        "cahl_pl.environments.ExecutableEnvironment"
    )


@pytest.mark.parametrize("verb", ["plan-memory", "show-prompt"])
def test_verbs_that_read_a_configuration_ask_for_one_too(told, verb):
    assert "give a configuration with -c, a file or the name of one that ships, as in -c quickstart" in told(verb)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "data.train",
            "/nowhere",
            "--data.train takes the import path of a class, such as cahl_pl.datasets.JsonlDataset, and '/nowhere' is none; "
            "what its class reads is an option of it: --data.train cahl_pl.datasets.JsonlDataset --data.train.path /nowhere, "
            "or in YAML train: {class_path: cahl_pl.datasets.JsonlDataset, init_args: {path: /nowhere}}",
        ),
        (
            "trainer.callbacks",
            "Nope",
            "--trainer.callbacks takes the import path of a class, such as cahl_pl.callbacks.BeforeAfter, and 'Nope' is none",
        ),
        (
            "data.sampler",
            "Nope",
            "--data.sampler takes the import path of a class, such as MODULE.CLASS, and 'Nope' is none",
        ),
    ],
)
def test_a_value_in_the_place_of_a_class_is_one_sentence(told, key, value, sentence):
    assert told("fit", "-c", "quickstart", f"--{key}", value) == sentence


WITHOUT_OPTIONS = {
    "export": "cahl-pl export needs --out, --ckpt_path; for example: cahl-pl export --out adapters -c configs/quickstart.yaml "
    "--ckpt_path CHECKPOINT",
    "report": "cahl-pl report needs RUN; for example: cahl-pl report runs/quickstart/version_0 --out report.html",
    "check-data": "cahl-pl check-data needs FILE.jsonl; for example: cahl-pl check-data FILE.jsonl",
}


@pytest.mark.parametrize(
    "verb", ["export", "report", "check-data", "convert-data", "ask", "compare", "sweep", "cross-play", "results-table"]
)
def test_a_verb_without_its_options_says_what_is_missing(told, verb):
    sentence = told(verb)
    assert re.fullmatch(rf"cahl-pl {verb} needs [^;]+; for example: cahl-pl {verb} [^\\]+", sentence)
    assert sentence == WITHOUT_OPTIONS.get(verb, sentence)
    assert not sentence.endswith("--help")


def test_wrong_options_of_a_verb_are_one_sentence(told):
    assert told("convert-data", "xyz", "a", "b").startswith(
        "cahl-pl convert-data: argument FORMAT: invalid choice: 'xyz'"
    )
    assert told("env", "--nope") == "cahl-pl env: unrecognized arguments: --nope; for example: cahl-pl env"


@pytest.mark.parametrize("words", [["quickstart"], ["-c", "quickstart", "more"]])
def test_a_word_that_belongs_to_nothing_is_told_with_what_to_write(told, words):
    word = words[-1]
    assert told("fit", *words) == (
        f"{word!r} belongs to no option: a configuration is given by -c {word}, a value by --KEY {word}"
    )


def test_an_option_without_its_configuration_is_told(told):
    assert told("fit", "-c") == "-c takes a configuration: a file, or the name of one that ships, such as -c quickstart"


def test_the_long_help_names_the_program(capsys):
    with pytest.raises(SystemExit, match="0"):
        console(["fit", "--help-all"])
    out = capsys.readouterr().out
    assert "__main__" not in out
    assert re.match(r"usage: cahl-pl .*fit", out)


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_a_refused_run_leaves_no_folder(tiny_model, tmp_path, monkeypatch, verb):
    """Refused late, when the logger has made the folder already."""
    monkeypatch.chdir(tmp_path)
    words = ["-c", "quickstart", f"--model.policy.model={tiny_model}"]
    words.append("--data.rollout.planner_group_size=1" if verb == "fit" else "--data.test=null")
    with pytest.raises(ConfigError):
        main([verb, *words])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(Path("runs/quickstart").glob("*"))


def test_a_refused_run_takes_nothing_that_was_there(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "runs" / "quickstart" / "mine"
    mine.mkdir(parents=True)
    (mine / "config.yaml").write_text("an older one's")
    words = ["-c", "quickstart", f"--model.policy.model={tiny_model}", "--trainer.logger.init_args.version=mine"]
    with pytest.raises(ConfigError, match="nothing to test on"):
        main(["test", *words, "--data.test=null"])
    assert (mine / "config.yaml").read_text() == "an older one's"


def test_every_verb_is_covered():
    of_trainer = {verb for verb, (place, _) in VERBS.items() if place.startswith("trainer:")}
    assert of_trainer == {"fit", "validate", "test", "predict"}

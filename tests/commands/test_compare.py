"""What is run, once, and the table of it, on values worked out by hand."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cahl_pl.commands import compare, fit_runs
from cahl_pl.errors import ConfigError
from cahl_pl.runs.files import lock


@pytest.fixture
def tool():
    return compare


@pytest.fixture
def commands(monkeypatch):
    """The commands that would be run; a run whose seed is in `failing` fails, the others leave a result."""
    runs = fit_runs
    seen, failing = [], set()

    def run(command, **options):
        seen.append(command[2:])
        values = dict(itertools.pairwise(command))
        if values.get("--seed_everything") in failing:
            return SimpleNamespace(returncode=1)
        out, name = (values[f"--trainer.logger.init_args.{key}"] for key in ("save_dir", "name"))
        folder = runs.folder(Path(out), name)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        if command[3] == "fit":
            for step in (8, 10):
                (folder / "checkpoints" / f"step-{step:06d}.ckpt").touch()
            after = {"task/success": 0.5}
            content = {
                "test": {"before": 0.25, "after": 0.5},
                "details": {
                    "test": {"before": {"task/success": 0.25}, "after": after},
                    "training": {"steps": 10, "tokens": 2000},
                },
            }
            (folder / "summary.json").write_text(json.dumps(content))
        else:
            (folder / "test.json").write_text(json.dumps({"test/task/success": 0.75, "solved": {"test": "1110"}}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(runs.subprocess, "run", run)
    return SimpleNamespace(seen=seen, failing=failing)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "base.yaml").write_text("a: 1\n")
    (tmp_path / "over.yaml").write_text("a: 2\n")
    return ["--out", str(tmp_path / "out"), "--config", str(tmp_path / "base.yaml"), "--jobs", "1"]


@pytest.mark.parametrize(
    ("text", "name", "overlays", "trained"),
    [
        ("joint", "joint", (), None),
        ("configs/ablations/freeze_high.yaml", "freeze_high", ("configs/ablations/freeze_high.yaml",), None),
        ("recipes/toolrl", "toolrl", ("recipes/toolrl",), None),
        ("mine=a.yaml,b.yaml", "mine", ("a.yaml", "b.yaml"), None),
        ("cold@joint=c.yaml", "cold", ("c.yaml",), "joint"),
        ("again@joint=", "again", (), "joint"),
    ],
)
def test_a_word_means_a_system(tool, text, name, overlays, trained):
    assert tool.System.parse(text) == tool.System(name, overlays, trained)


@pytest.mark.parametrize("text", ["", "=a.yaml", "x@=a.yaml", "a b", "../x=a.yaml"])
def test_other_words_are_refused(tool, text):
    with pytest.raises(ConfigError, match="is no system: give a word"):
        tool.System.parse(text)


def test_the_table_holds_mean_and_deviation_over_seeds(tool, summary, tmp_path):
    for seed, success in enumerate((0.5, 0.6, 0.7)):
        summary(tmp_path, f"joint-{seed}", success, before=0.2, tokens=(1000, 2000, 3000)[seed])
    summary(tmp_path, "alone-0", 0.25)
    results = {
        name: {s: r for s in range(3) if (r := tool.result(tmp_path, tool.System(name), s)) is not None}
        for name in ("joint", "alone", "absent")
    }
    head, _, joint, alone, absent, _, note = tool.table(results).splitlines()
    assert head.startswith(
        "| system | test before | test | each seed | test_unseen_tools before | test_unseen_tools | each seed | c"
    )
    assert joint == (
        "| joint | 20.0 +- 0.0 | 60.0 +- 10.0 | 50.0, 60.0, 70.0 | - | - | - | 2.00 +- 0.00 | 25.0 +- 0.0 | 0.0 +- 0.0 | "
        "2.0 +- 1.0 | 80.0 +- 0.0 | 4 +- 0 |"
    )
    assert alone == "| alone | - | 25.0 | 25.0 | - | - | - | 2.00 | 25.0 | 0.0 | 1.0 | 80.0 | 4 |"
    assert absent == "| absent |" + " - |" * 12
    assert note.startswith("Seeds: joint 3, alone 1, absent 0.")


def test_a_summary_without_training_has_no_cost(tool, summary, tmp_path):
    path = summary(tmp_path, "old-0", 0.5) / "summary.json"
    content = json.loads(path.read_text())
    del content["details"]["training"]
    path.write_text(json.dumps(content))
    row = tool.table({"old": {0: tool.result(tmp_path, tool.System("old"), 0)}}).splitlines()[2]
    assert row == "| old | - | 50.0 | 50.0 | - | - | - | 2.00 | 25.0 | 0.0 | - | 80.0 | - |"


def test_finished_runs_are_not_repeated_and_tests_take_the_last_checkpoint(tool, commands, config, tmp_path, capsys):
    over = tmp_path / "over.yaml"
    words = [*config, "--seeds", "3", "--tokens", "99", "joint", f"cold@joint={over}", "--", "--x", "1"]
    tool.main(words)
    fit, test = commands.seen
    assert fit == [
        *("cahl_pl", "fit", "-c", str(tmp_path / "base.yaml")),
        *("--trainer.logger.init_args.save_dir", str(tmp_path / "out"), "--trainer.logger.init_args.name", "joint-3"),
        *("--trainer.logger.init_args.version", "0", "--seed_everything", "3", "--data.seed", "3"),
        *("--trainer.callbacks+=cahl_pl.callbacks.TokenBudget", "--trainer.callbacks.max_tokens=99"),
        *("--trainer.max_steps=-1", "--trainer.max_epochs", "1000"),
        *("--ckpt_path", "last", "--x", "1"),
    ]
    assert test[:6] == ["cahl_pl", "test", "-c", str(tmp_path / "base.yaml"), "-c", str(over)]
    last = tmp_path / "out" / "joint-3" / "version_0" / "checkpoints" / "step-000010.ckpt"
    assert test[-4:] == ["--ckpt_path", str(last), "--x", "1"]
    assert "| cold | - | 75.0 | 75.0 | - | - | - | - | - | - | 2.0 | - | 10 |" in capsys.readouterr().out
    tool.main(words)
    assert len(commands.seen) == 2
    assert "| joint | 25.0 | 50.0 |" in (tmp_path / "out" / "table.md").read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["systems"]["cold"]["seeds"]["3"]["after"]["test"]["task/success"] == 0.75


def test_a_failed_run_is_named_and_the_others_go_on(tool, commands, config, tmp_path, capsys):
    commands.failing.add("0")
    with pytest.raises(SystemExit) as stopped:
        tool.main([*config, "--seeds", "0", "1", "--jobs", "1", "joint", "again@joint="])
    out = tmp_path / "out"
    assert stopped.value.code.splitlines() == [
        f"error: joint-0 failed with exit status 1 and no summary.json: read {out / 'joint-0.log'}",
        f"error: again-0 needs the finished run joint-0 in {out}: name its system too",
    ]
    assert "Seeds: joint 1, again 1." in capsys.readouterr().out


def test_only_the_table(tool, commands, config, capsys):
    tool.main([*config, "--table", "joint"])
    assert commands.seen == []
    assert "Seeds: joint 0." in capsys.readouterr().out


def test_a_folder_of_other_settings_is_refused(tool, commands, config, tmp_path):
    tool.main(["--seeds", "0", *config, "joint"])
    (tmp_path / "base.yaml").write_text("a: 1 # the same\n")
    tool.main(["--seeds", "0", *config, "joint"])
    with pytest.raises(
        SystemExit, match=r"joint-0: .* holds a run with other settings: delete it, or give another --out"
    ):
        tool.main(["--seeds", "0", "--tokens", "7", *config, "joint"])
    (tmp_path / "base.yaml").write_text("a: 3\n")
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        tool.main(["--seeds", "0", *config, "joint"])


def test_a_file_that_is_not_there_is_one_sentence(tool, commands, config, tmp_path):
    with pytest.raises(
        SystemExit, match=r"x-0: the configuration .*nowhere\.yaml is neither a file nor one that ships"
    ):
        tool.main(["--seeds", "0", *config, f"x={tmp_path}/nowhere.yaml"])


def test_two_systems_of_one_name_are_refused(tool, config):
    with pytest.raises(ConfigError, match="two systems have the same name"):
        tool.main([*config, "a.yaml", "b/a.yaml"])


def test_a_system_trains_until_the_budget_is_spent_and_is_tested_again(tool, in_this_process, small, tmp_path):
    words = ["--out", str(tmp_path), "--seeds", "5", "--tokens", "40", "joint", "again@joint=", "--", *small]
    tool.main(words)
    found = json.loads((tmp_path / "results.json").read_text())["systems"]
    trained, again = found["joint"]["seeds"]["5"], found["again"]["seeds"]["5"]
    assert trained["training"]["tokens"] >= 40
    assert trained["training"]["steps"] in (2, 4)
    assert trained["after"]["test"]["tokens_per_task"] > 0
    assert again["after"]["test"] == pytest.approx(trained["after"]["test"], abs=1e-6)
    assert again["training"] == trained["training"]
    assert sys.executable not in (tmp_path / "joint-5" / "run.json").read_text()  # another interpreter may go on


@pytest.mark.parametrize("text", ["freeze_high", "freeze_high@joint"])
def test_a_word_that_names_a_configuration_file_is_no_system(tool, text):
    with pytest.raises(ConfigError, match=f"give {text}=configs/ablations/freeze_high.yaml"):
        tool.System.parse(text)
    assert tool.System.parse("freeze_high=") == tool.System("freeze_high")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"test": {"before": 0.25',
        '{"test": {}, "details": {}}',
        '{"test": {}, "details": {"test": {"before": null, "after": {"task/success": null}}}}',
        '{"details": {"training": {}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_summary_is_named_and_the_others_are_shown(
    tool, commands, config, summary, tmp_path, content, capsys
):
    path = summary(tmp_path / "out", "joint-0", 0.5) / "summary.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        tool.main([*config, "--seeds", "0", "1", "--jobs", "1", "joint", "again@joint="])
    failures = stopped.value.code.splitlines()
    assert f"error: {path} is damaged: delete it and start again, which repeats only what is missing" in failures
    assert len(failures) == len(set(failures))
    assert "Seeds: joint 1, again 1." in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "{", '{"test/task/success": null}'])
def test_a_damaged_test_is_named(tool, commands, config, tmp_path, content):
    tool.main([*config, "--seeds", "0", "--jobs", "1", "joint", "again@joint="])
    path = tmp_path / "out" / "again-0" / "version_0" / "test.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match=r"^error: .*test\.json is damaged: delete it[^\n]*$"):
        tool.main([*config, "--seeds", "0", "--table", "joint", "again@joint="])


@pytest.mark.parametrize("content", ["", "[]", '{"command": "fit"'])
def test_a_damaged_record_of_a_run_stops_only_this_run(tool, commands, config, tmp_path, content, capsys):
    path = tmp_path / "out" / "joint-0" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(SystemExit, match=r"run\.json is damaged: delete it"):
        tool.main([*config, "--seeds", "0", "1", "--jobs", "1", "joint"])
    assert "Seeds: joint 1." in capsys.readouterr().out
    path.unlink()
    tool.main([*config, "--seeds", "0", "1", "--jobs", "1", "joint"])
    assert "Seeds: joint 2." in capsys.readouterr().out
    assert "seconds" not in json.loads(path.read_text())  # of the first part nobody knows them


def test_a_seed_is_given_once(tool, commands, config):
    with pytest.raises(ConfigError, match="--seeds: give each seed once"):
        tool.main([*config, "--seeds", "0", "0", "--jobs", "1", "joint"])
    assert commands.seen == []


def test_no_jobs_at_a_time_are_refused(tool, config, capsys):
    with pytest.raises(SystemExit):
        tool.main([*config, "--jobs", "0", "joint"])
    assert "argument --jobs: give a whole number, 1 or more, not '0'" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"a: \xff", b"a: [1"])
def test_an_overlay_that_cannot_be_read_is_named(tool, commands, config, tmp_path, content):
    (tmp_path / "over.yaml").write_bytes(content)
    with pytest.raises(SystemExit, match=r"^error: x-0: the configuration .*over\.yaml cannot be read [^\n]*$"):
        tool.main([*config, "--seeds", "0", "--jobs", "1", f"x={tmp_path / 'over.yaml'}"])


def test_shipped_configurations_go_by_name(tool, commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder configs/
    tool.main(
        ["--out", "out", "-c", "quickstart", "--seeds", "0", "--jobs", "1", "recipes/toolrl", "x=ablations/freeze_low"]
    )
    given = [[Path(b) for a, b in itertools.pairwise(command) if a == "-c"] for command in commands.seen]
    assert [[path.stem for path in paths] for paths in given] == [
        ["quickstart", "toolrl"],
        ["quickstart", "freeze_low"],
    ]
    assert all(path.is_file() for paths in given for path in paths)


def test_a_run_that_another_program_is_at_is_left_to_it(tool, commands, config, tmp_path):
    folder = tmp_path / "out" / "joint-0"
    folder.mkdir(parents=True)
    unlock = lock(folder / ".lock")
    with pytest.raises(SystemExit) as stopped:
        tool.main([*config, "joint", "--seeds", "0"])
    assert str(stopped.value) == (
        f"error: joint-0: another program is running it in {folder}: start this one again when that has ended, and nothing is "
        "repeated"
    )
    assert commands.seen == []
    unlock()
    tool.main([*config, "joint", "--seeds", "0"])
    assert len(commands.seen) == 1

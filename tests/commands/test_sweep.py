"""The combinations, their table and their curves, on values worked out by hand, and one small sweep."""

from __future__ import annotations

import json
import struct

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.commands import fit_runs, sweep
from cahl_pl.errors import ConfigError


@pytest.fixture
def tool():
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib: pip install -e '.[dev]'")
    return sweep


def png_size(path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_keys_and_values(tool):
    assert tool.parse_keys(["a.b=1,2", "c=x"]) == {"a.b": ["1", "2"], "c": ["x"]}


@pytest.mark.parametrize("words", [["a"], ["a="], ["a=1,"], ["=1"], ["a=1", "a=2"]])
def test_other_keys_are_refused(tool, words):
    with pytest.raises(ValueError, match="give each key once, as KEY=VALUE"):
        tool.parse_keys(words)


def test_names_are_as_short_as_they_can_be(tool):
    assert tool.short_names(["data.rollout.planner_group_size", "data.seed"]) == ["planner_group_size", "seed"]
    assert tool.short_names(["model.planner.lr", "model.executor.lr"]) == ["planner.lr", "executor.lr"]
    assert tool.run_name(["lr", "model"], ("1e-3", "a/b"), 2) == "lr=1e-3_model=a-b-2"


def test_the_curve_is_a_moving_average_over_rounds(tool, tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    for step, tokens, success in ((1, 10, 0.0), (3, 30, 0.5), (5, 40, 1.0), (7, 60, 0.5)):
        logger.log_metrics({"rollout/tokens_total": tokens, "task/success": success}, step)
    logger.log_metrics({"rollout/tokens_total": 70}, 9)  # a round without the other value
    logger.experiment.close()
    tokens, success = tool.success_curve(logger.log_dir, 2)
    assert tokens == [10, 30, 40, 60]
    assert success == [0.0, 0.25, 0.75, 0.75]


def test_a_run_that_logged_nothing_has_no_curve(tool, tmp_path):
    assert tool.success_curve(tmp_path, 5) == ([], [])


def test_the_table_has_one_row_a_combination(tool, summary, tmp_path):
    def read(run, success, tokens):
        return json.loads((summary(tmp_path, run, success, tokens=tokens) / "summary.json").read_text())

    runs = {("2",): [(read("a", 0.5, 1000), 60.0), (read("b", 0.7, 3000), None)], ("4",): []}
    head, _, two, four, *_ = tool.table(["group"], runs, "test").splitlines()
    assert head == "| group | test success | training tokens (thousand) | optimiser steps | seconds | seeds |"
    assert two == "| 2 | 60.0 +- 14.1 | 2.0 +- 1.4 | 4 +- 0 | 60 | 2 |"
    assert four == "| 4 | - | - | - | - | 0 |"


@pytest.mark.parametrize("combinations", [1, 12])
def test_the_plot_is_a_picture(tool, tmp_path, combinations):
    keys = [(str(n),) for n in range(combinations)]
    curves = {key: [([10.0, 20.0], [0.1, 0.2]), ([], [])] for key in keys}
    tool.plot(tmp_path / "plot.png", ["group"], curves, {key: [(20.0, 0.3)] for key in keys}, "test", 5)
    assert png_size(tmp_path / "plot.png") == (900, 500)


def test_an_unknown_test_set_is_one_sentence(tool, summary, monkeypatch, tmp_path):
    monkeypatch.setattr(fit_runs, "fit", lambda *arguments: None)
    summary(tmp_path, "x=1-0", 0.5)
    with pytest.raises(ConfigError, match="the runs have no test set 'odd': name one of theirs with --success"):
        tool.main(["--out", str(tmp_path), "--keys", "x=1", "--seeds", "0", "--success", "odd"])


def test_a_sweep_trains_and_draws(tool, in_this_process, small, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--seeds", "0", "--tokens", "40", "--keys", "data.rollout.planner_group_size=2"]
    tool.main([*words, "--", *small])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 |")).split(" | ")
    assert row[3] in ("2", "4")
    tokens, success = tool.success_curve(tmp_path / "planner_group_size=2-0" / "version_0", 5)
    assert tokens[-1] >= 40
    assert len(tokens) == len(success)
    assert png_size(tmp_path / "success.png") == (900, 500)
    assert (tmp_path / "table.md").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--keys", "data.seed=1,1"], "--keys data.seed=1,1: give each value once"),
        (["--keys", "model=a/b,a-b"], "some values differ only in characters that a folder's name does not hold"),
        (["--keys", "x=1", "--seeds", "0", "0"], "--seeds: give each seed once"),
    ],
)
def test_nothing_is_run_twice_at_once(tool, monkeypatch, tmp_path, words, sentence):
    monkeypatch.setattr(fit_runs, "run_all", lambda *arguments: pytest.fail("started"))
    with pytest.raises(ConfigError, match=sentence):
        tool.main(["--out", str(tmp_path), *words])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("version_0/summary.json", ""),
        ("version_0/summary.json", "{}"),
        ("version_0/summary.json", '{"test": {"after": 0.5}, "details": {"training": null}}'),
        ("version_0/summary.json", '{"test": {"after": null}, "details": {"training": {"steps": 1, "tokens": 2}}}'),
        ("run.json", "{"),
    ],
)
def test_a_damaged_file_is_named_and_the_other_runs_are_shown(
    tool, summary, monkeypatch, tmp_path, file, content, capsys
):
    monkeypatch.setattr(fit_runs, "fit", lambda *arguments: None)
    for seed in (0, 1):
        summary(tmp_path, f"x=1-{seed}", 0.5)
    (tmp_path / "x=1-0" / file).write_text(content)
    with pytest.raises(SystemExit, match=r"^error: .*json is damaged: delete it[^\n]*$"):
        tool.main(["--out", str(tmp_path), "--keys", "x=1"])
    assert "| 1 | 50.0 | 1.0 | 4 | - | 1 |" in capsys.readouterr().out


def test_no_jobs_at_a_time_are_refused(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path), "--keys", "x=1", "--jobs", "0"])
    assert "argument --jobs: give a whole number, 1 or more, not '0'" in capsys.readouterr().err

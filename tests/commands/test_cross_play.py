"""Planners and executors of different checkpoints, played with one another."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from cahl_pl.commands import console, cross_play
from cahl_pl.commands.report.cross_play import section
from cahl_pl.errors import ConfigError


@pytest.fixture
def checkpoint(make_policy, tmp_path):
    """A checkpoint of the tiny model."""

    def write(name: str, shift: float):
        policy = make_policy(lora_rank=16, lora_alpha=32)
        state = {k: v + shift for k, v in policy.adapter_state().items()}
        path = tmp_path / name
        content = {"state_dict": state, "policy_version": policy.version, "policy_config": asdict(policy.config)}
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def play_all(small, tmp_path):
    def run(*arguments):
        console(
            [
                "cross-play",
                "--out",
                str(tmp_path / "out"),
                *map(str, arguments),
                "-c",
                "configs/quickstart.yaml",
                *small,
            ]
        )
        return json.loads((tmp_path / "out" / "cross_play.json").read_text())

    return run


def test_each_pair_plays_its_own_adapters(play_all, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    played = []

    def play(cli, state, test_set, count):
        roles = {
            role: next(v for k, v in state.items() if f".{role}." in k and "lora_A" in k)
            for role in ("planner", "executor")
        }
        played.append((float(roles["planner"].mean()), float(roles["executor"].mean()), test_set, count))
        return 0.5

    monkeypatch.setattr(cross_play, "play", play)
    path = checkpoint("step-000002.ckpt", shift=1.0)
    content = play_all("--checkpoints", path, "--tasks", 2)
    shifted = [(planner > 0.5, executor > 0.5) for planner, executor, _, _ in played]
    assert shifted == [(False, False), (False, True), (True, False), (True, True)]
    assert content["success"] == {
        f"{planner} {executor}": 0.5 for planner in ("start", "step-000002") for executor in ("start", "step-000002")
    }
    assert (tmp_path / "out" / "success.png").stat().st_size > 1000
    played.clear()
    play_all("--checkpoints", path, "--tasks", 2)
    assert played == []


def test_it_plays_real_episodes(play_all, checkpoint):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    content = play_all("--checkpoints", checkpoint("step-000002.ckpt", 0.0), "--tasks", 1)
    assert set(content["success"].values()) <= {0.0, 1.0}
    assert len(content["success"]) == 4


def test_checkpoints_of_several_runs_are_told_apart_by_names(tmp_path):
    odd = tmp_path / "a=b.ckpt"
    odd.write_bytes(b"")
    one, two = (tmp_path / run / "step-9.ckpt" for run in ("1", "2"))
    found = cross_play.named([f"seed-1={one}", f"seed-2={two}", str(one), str(odd)])
    assert found == {"seed-1": one, "seed-2": two, "step-9": one, "a=b": odd}
    with pytest.raises(ConfigError, match="two 'step-9'"):
        cross_play.named([str(one), str(two)])


def test_a_matrix_as_markdown():
    success = {"start start": 0.1, "start b": 0.2, "b start": 0.3, "b b": 0.405}
    assert cross_play.table(["start", "b"], success).splitlines()[2:] == [
        "| start | 10.0 | 20.0 |",
        "| b | 30.0 | 40.5 |",
    ]


def test_what_cannot_be_played_is_one_sentence(play_all, checkpoint, tmp_path, capsys):
    (tmp_path / "half.ckpt").write_bytes(b"x")
    for arguments, word in (
        (("--checkpoints", tmp_path / "half.ckpt"), "half.ckpt"),
        (("--checkpoints", checkpoint("a.ckpt", 0.0), "--test-set", "nowhere"), "nowhere"),
    ):
        with pytest.raises(SystemExit):
            play_all(*arguments)
        error = capsys.readouterr().err
        assert word in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b=x.ckpt", "names one 'a b': names need a character, and no blanks or bars; give one, as in mine=x.ckpt"),
        ("my run.ckpt", "names one 'my run': .* as in mine=my run.ckpt"),
        ("=x.ckpt", "names one '': "),
        ("a|b=x.ckpt", r"names one 'a\|b': "),
        ("start=x.ckpt", "names one 'start', which is the model before training"),
    ],
)
def test_names_that_would_be_mixed_up_or_break_the_table_are_refused(name, said):
    """Success is kept by "planner executor": a blank in a name would make two pairs one."""
    with pytest.raises(ConfigError, match=said):
        cross_play.named([name])


def test_what_was_played_under_other_names_is_not_taken_for_these(tmp_path):
    path = tmp_path / "cross_play.json"
    old = {"test_set": "test", "tasks": 3, "checkpoints": ["x/a.ckpt", "y/a.ckpt"], "success": {}}
    path.write_text(json.dumps(old))
    assert cross_play._earlier(path)["names"] == ["start", "a", "a"]
    path.write_text(json.dumps(old | {"names": ["start", "p", "q"]}))
    assert cross_play._earlier(path)["names"] == ["start", "p", "q"]
    for text in ("[", "[]", "{}", '{"checkpoints": 3}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is none that cross-play has written: delete it"):
            cross_play._earlier(path)


def test_the_report_shows_the_names_that_were_given(tmp_path):
    names = ["start", "p", "q"]
    success = {f"{a} {b}": 0.5 for a in names for b in names}
    content = {
        "test_set": "test",
        "tasks": 3,
        "checkpoints": ["x/a.ckpt", "y/a.ckpt"],
        "names": names,
        "success": success,
    }
    (tmp_path / "cross_play.json").write_text(json.dumps(content))
    assert '<th scope="row">q</th>' in section(tmp_path)

"""Kills that strike while a checkpoint is written, and the comparison of what two runs leave."""

from __future__ import annotations

import sys

import pytest
import torch

from tools.robustness import kill_and_resume

# A run that saves a checkpoint as Lightning does: aside in the folder for temporary files, moved, flushed, renamed.
RUN = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1]) / "run" / "version_0" / "checkpoints"
folder.mkdir(parents=True, exist_ok=True)
for step in range(1, 5):
    aside = Path(os.environ["TMPDIR"], f"tmp{step}")
    aside.write_text("half")
    time.sleep(0.2)
    moved = folder / f"step-{step}.tmp"
    aside.replace(moved)
    time.sleep(0.2)
    moved.replace(folder / f"step-{step}.ckpt")
    time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("saves", "seconds", "where", "whole"),
    [(1, 0.0, "bytes", []), (2, 0.3, "not renamed", [1]), (3, 0.5, "whole", [1, 2, 3]), (5, 0.0, "", [1, 2, 3, 4])],
)
def test_a_kill_strikes_the_checkpoint_that_it_is_meant_for(tmp_path, saves, seconds, where, whole):
    tool = kill_and_resume
    stale = tmp_path / "killed" / "run" / "version_0" / "checkpoints" / "step-9.tmp"  # of an earlier kill
    stale.parent.mkdir(parents=True)
    stale.write_text("half")
    argv = [sys.executable, "-S", "-c", RUN, str(tmp_path / "killed")]
    status, found = tool.kill_while_saving(argv, tmp_path / "log", tmp_path / "killed", saves, seconds)
    assert (status, found) == (None if where else 0, where)
    assert sorted(int(path.stem[5:]) for path in stale.parent.glob("*.ckpt")) == whole


def test_differences_are_exact_and_named():
    differences = kill_and_resume.differences
    one = {"a": torch.ones(2), "metrics": {"time/round": 1.0, "loss": 2.0}, "list": [1, float("nan")]}
    assert differences(one, {**one, "a": torch.ones(2), "metrics": {"time/round": 9.0, "loss": 2.0}}) == []
    other = {"a": torch.ones(2) + 1e-7, "metrics": {"loss": 3.0}, "list": [1, 2]}
    assert differences(one, other, "x") == ["x/a", "x/metrics/loss: 2.0 and 3.0", "x/list/1: nan and 2"]
    assert differences({"a": 1}, {"b": 1}, "x") == ["x: keys ['a', 'b']"]

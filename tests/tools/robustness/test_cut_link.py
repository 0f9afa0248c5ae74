"""A link that is cut between two hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tools.robustness import cut_link


def may_have_hosts() -> bool:
    """Return whether network namespaces can be made here."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        with cut_link.two_hosts():
            return True
    except subprocess.CalledProcessError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not may_have_hosts(), reason="needs root and ip, to make network namespaces")
def test_both_sides_of_a_cut_link_end_with_a_sentence_and_go_on_as_if_it_had_not_been_cut(tmp_path, tiny_model):
    arguments = ["-c", "quickstart", "--trainer.max_steps=6", f"--model.policy.model={tiny_model}"]
    arguments += ["--data.train.init_args.size=8", "--data.tasks_per_round=4"]
    arguments += ["--data.rollout.planner.max_new_tokens=5", "--data.rollout.executor.max_new_tokens=5"]
    arguments += ["--trainer.callbacks.init_args.every_n_steps=1"]
    command = [sys.executable, "-m", "tools.robustness.cut_link", "--out", str(tmp_path / "link")]
    command += ["--after", "2", "--timeout", "60", "--", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "link" / "report.json").read_text())
    assert report["differences"] == []
    assert max(report["cut"]["seconds"]) < 60 + cut_link.GRACE_S
    for host, (error,) in enumerate(report["cut"]["errors"]):
        assert error.startswith(f"error: the process {host} on ")
        assert "has lost the others (" in error
        assert "--ckpt_path last" in error

"""The `config.yaml` that a run has written serves every verb, though it has keys that only its own verb takes."""

from __future__ import annotations

import pytest
import yaml

from cahl_pl.cli import main
from cahl_pl.commands.configured import read_config

KEYS = {"ckpt_path": None, "weights_only": True, "verbose": False, "return_predictions": None}


@pytest.fixture
def of_a_run(config, tmp_path):
    """A configuration with what `fit`, `test` and `predict` add to it, and text that another reader would change."""
    content = yaml.safe_load(config.read_text()) | KEYS
    content["data"]["prompts"]["planner"] = "Plan: \u00fcber 007, 2026-05-03"
    path = tmp_path / "written.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_verbs_that_build_nothing_or_all_read_it(of_a_run):
    assert read_config(["-c", str(of_a_run)]).data.prompts.planner == "Plan: \u00fcber 007, 2026-05-03"
    cli = main(["-c", str(of_a_run)], run=False)
    assert cli.datamodule.prompts.planner == "Plan: \u00fcber 007, 2026-05-03"
    assert cli.model.grpo["planner"].clip_high == 0.3


@pytest.mark.parametrize("verb", ["fit", "test", "validate", "predict"])
def test_every_verb_of_the_trainer_reads_it(of_a_run, verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "-c", str(of_a_run), "--print_config"])
    assert stopped.value.code in (0, None)
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["data"]["prompts"]["planner"] == "Plan: \u00fcber 007, 2026-05-03"
    assert shown["weights_only"] is True


def test_a_key_that_no_verb_has_is_still_refused(fail, of_a_run, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("verbose: true\nckpt_pth: x\n")
    assert "there is no configuration key ckpt_pth; did you mean ckpt_path?" in fail("-c", str(other))

"""The README's commands run, in its order, on small models and few tasks; its paths and names are there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from cahl_pl.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of code blocks that start our own programs; a line may end with a backslash and go on."""
    lines = [line for _, block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"python (-m cahl_pl|tools/export)", line)]


def small(argv: list[str], model: Path, data: Path) -> list[str]:
    """Overrides that make a configuration's run small; those of parts that it does not have are left out."""
    config = yaml.safe_load(Path(argv[argv.index("-c") + 1]).read_text())
    values = {
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.strategy": "auto",
        "trainer.max_steps": "2",
        "model.policy.model": str(model),
        "model.policy.quantization": "none",
        "model.policy.dtype": "float32",
        "model.policy.lora_rank": "2",
        "data.tasks_per_round": "2",
        "data.rollout.planner.max_new_tokens": "4",
        "data.rollout.executor.max_new_tokens": "4",
    }
    if "RllaDataset" in config["data"]["train"]["class_path"]:
        values["data.train.init_args.path"] = str(data)
    for name in config["data"].get("test", {}):
        values[f"data.test.{name}.init_args.size"] = "2"
    return [f"--{key}={value}" for key, value in values.items()]


def test_the_commands_run(tiny_model, rlla_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (mine,) = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "mine.yaml").write_text(mine)
    checkpoint = "runs/quickstart/version_0/checkpoints/step-000002.ckpt"
    found = commands()
    assert len(found) >= 7
    for command in found:
        monkeypatch.setattr(sys, "argv", ["cahl_pl"])
        argv = shlex.split(command.replace("$CKPT", checkpoint))[1:]
        overrides = small(argv, tiny_model, rlla_file)
        if argv[0] == "-m":
            if "--print_config" in argv:
                with pytest.raises(SystemExit) as end:
                    main([*argv[2:-1], *overrides, argv[-1]])
                assert end.value.code == 0
            else:
                main([*argv[2:], *overrides])
        else:
            runpy.run_path(str(ROOT / argv[0]))["run"]([*argv[1:], *overrides])
    assert Path("adapters/planner/adapter_model.safetensors").is_file()
    assert "going on from" in capsys.readouterr().out


def test_what_it_points_to_is_there():
    for path, name in re.findall(r"`(cahl_pl/[\w/]+\.py):([\w.]+)`", README):
        source = (ROOT / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b", source, re.MULTILINE), f"{path}: {part}"
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).is_file(), target

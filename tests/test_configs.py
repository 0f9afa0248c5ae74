"""Every configuration that ships: it parses, builds its classes and trains, on the tiny model and at small lengths.

The files directly in configs/ are whole; those in folders below it are laid over quickstart.yaml.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from cahl_pl.callbacks import FourBitMemory
from cahl_pl.cli import main
from cahl_pl.datasets import RllaDataset
from cahl_pl.prompts import PromptConfig
from cahl_pl.toolworld.prompts import PROMPTS

FOLDER = Path(__file__).resolve().parents[1] / "configs"
# these test and do not train: tests/benchmarks/test_by_trainer.py
BENCHMARKS = {"api_bank", "bamboogle", "bfcl", "benchmarks_smollm2"}
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.stem not in BENCHMARKS)


def by_name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


@pytest.fixture
def rows_file(tmp_path) -> Path:
    """Two rows in the project's own format."""
    tool = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}
    calls = [[{"name": "add", "arguments": {"a": n}}] for n in range(2)]
    asked = [{"role": "user", "content": "Add."}]
    rows = [{"id": str(n), "messages": asked, "tools": [tool], "gold": gold} for n, gold in enumerate(calls)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def small(tiny_model, rlla_file, rows_file, tmp_path, monkeypatch):
    """The arguments that make a configuration small enough for a test."""
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    monkeypatch.chdir(tmp_path)  # runs/ is written there

    def arguments(path: Path) -> list[str]:
        base = path if path.parent == FOLDER else FOLDER / "quickstart.yaml"
        content = yaml.safe_load(base.read_text())
        values = {
            "trainer.accelerator": "cpu",
            "trainer.devices": "1",
            "trainer.strategy": "auto",
            "trainer.max_steps": "2",
            "model.policy.model": str(tiny_model),
            "model.policy.quantization": "none",
            "model.policy.dtype": "float32",
            "model.policy.adapter_dtype": "float32",
            "data.tasks_per_round": "2",
            "data.rollout.planner.max_new_tokens": "6",
            "data.rollout.executor.max_new_tokens": "6",
        }
        if content.get("data", {}).get("train", {}).get("class_path", "").endswith("RllaDataset"):
            values["data.train.init_args.path"] = str(rlla_file)
        if content["data"]["train"]["class_path"].endswith("JsonlDataset"):
            values["data.train.init_args.path"] = str(rows_file)
        for name, test_set in content["data"].get("test", {}).items():
            if test_set["class_path"].endswith("JsonlDataset"):
                values[f"data.test.{name}.init_args.path"] = str(rows_file)
            else:
                values[f"data.test.{name}.init_args.size"] = "2"
        files = ["-c", str(base)] if base == path else ["-c", str(base), "-c", str(path)]
        return [*files, *(f"--{key}={value}" for key, value in values.items())]

    return arguments


def test_there_are_configurations():
    assert {"cahl.yaml", "quickstart.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=by_name)
def test_it_builds_and_trains(path, small, monkeypatch):
    cli = main(small(path), run=False)
    callbacks = [c for c in cli.trainer.callbacks if not isinstance(c, FourBitMemory)]  # 4 bits take seconds to load
    monkeypatch.setattr(cli.trainer, "callbacks", callbacks)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2
    assert sum(cli.model.policy.version.values()) == 2


def test_supervised_alone_samples_nothing(small, monkeypatch):
    cli = main(small(FOLDER / "ablations" / "supervised.yaml"), run=False)
    monkeypatch.setattr(cli.datamodule, "_play", lambda *args: pytest.fail("a round is sampled"))
    cli.trainer.fit(cli.model, cli.datamodule)
    assert sum(cli.model.policy.version.values()) == 2


@pytest.mark.parametrize(
    ("name", "roles", "planner", "executor"),
    [
        ("joint", ("planner", "executor"), (0.3, 0.7), (0.1, 0.2, 0.7)),
        ("freeze_high", ("executor",), (0.3, 0.7), (0.1, 0.2, 0.7)),
        ("freeze_low", ("planner",), (0.3, 0.7), (0.1, 0.2, 0.7)),
        ("without_param", ("planner", "executor"), (0.0, 0.7), (0.1, 0.2, 0.7)),
        ("without_exe", ("planner", "executor"), (0.3, 0.0), (0.1, 0.2, 0.7)),
        ("without_form", ("planner", "executor"), (0.3, 0.7), (0.0, 0.2, 0.7)),
        ("without_syn", ("planner", "executor"), (0.3, 0.7), (0.1, 0.0, 0.7)),
        ("without_sem", ("planner", "executor"), (0.3, 0.7), (0.1, 0.2, 0.0)),
    ],
)
def test_an_ablation_takes_away_what_it_says(name, roles, planner, executor, small):
    data = main(small(FOLDER / "ablations" / f"{name}.yaml"), run=False).datamodule
    assert data.schedule.roles(0) == roles
    assert tuple(data.rollout.planner_reward.weights.values()) == planner
    assert tuple(data.rollout.executor_reward.weights.values()) == executor


def test_the_small_language_model_on_benchmarks_parses(monkeypatch, capsys):
    """It needs data of others to run: here its keys and classes are checked, and that it may stand behind smollm2.yaml."""
    monkeypatch.setattr(sys, "argv", ["cahl_pl"])
    files = [f"-c={FOLDER / name}" for name in ("smollm2.yaml", "benchmarks_smollm2.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main(["test", *files, "--print_config"])
    assert stopped.value.code == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert set(content["data"]["test"]) == {"api_bank", "bamboogle", "bfcl"}
    assert content["model"]["policy"]["quantization"] == "none"


def test_the_real_row_format_is_what_the_paper_run_reads(rlla_file):
    tasks = RllaDataset(rlla_file)
    assert [task.gold[0].arguments for task in (tasks[0], tasks[2])] == [{"a": 0, "b": 2}, {"a": 2, "b": 2}]


def test_quickstart_uses_the_words_that_the_small_model_knows():
    content = yaml.safe_load((FOLDER / "quickstart.yaml").read_text())
    assert asdict(PromptConfig(**content["data"]["prompts"])) == asdict(PROMPTS)


def test_every_value_of_the_paper_run_is_explained():
    """A comment stands above each leaf key, or above its one-line group, and says whose value it is."""
    lines = (FOLDER / "cahl.yaml").read_text().splitlines()
    explained, unexplained, about = 0, [], ""
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            about = f"{about} {text}"
        elif text:
            is_group = text.endswith(":") or text.startswith(("class_path:", "- class_path:", "init_args: {"))
            if about:
                explained += 1
            elif not is_group:
                unexplained.append(text)
            if about and not is_group:
                assert "paper" in about or "ours" in about, f"whose value is {text}?"
            about = ""
        else:
            about = ""
    assert unexplained == []
    assert explained > 30

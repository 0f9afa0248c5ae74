"""W&B and MLflow as loggers of whole runs: folders, going on with `--ckpt_path last`, and what of a run is shown there."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from cahl_pl.cli import main
from cahl_pl.errors import ConfigError
from tests.cli import fake_trackers

REAL = {
    "wandb": ("lightning.pytorch.loggers.WandbLogger", {"project": "shop", "offline": True}, "id"),
    "mlflow": ("lightning.pytorch.loggers.MLFlowLogger", {"experiment_name": "shop"}, "run_id"),
}
FAKE = {
    "wandb": ("tests.cli.fake_trackers.KeepingWandb", {"project": "shop"}, "id"),
    "mlflow": ("tests.cli.fake_trackers.KeepingMLFlow", {"experiment_name": "shop"}, "run_id"),
}


@pytest.fixture
def tracked(config, tmp_path, monkeypatch):
    """Writes a configuration with a tracker's logger, and runs a verb with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fake_trackers, "MADE", [])

    def run(verb, logger, *arguments, steps=2):
        class_path, values, _ = logger
        content = yaml.safe_load(config.read_text())
        kept = [{"class_path": f"cahl_pl.callbacks.{name}"} for name in ("Dashboard", "ExecutionFeedback")]
        kept.append({"class_path": "cahl_pl.callbacks.Checkpoints", "init_args": {"every_n_steps": 1}})
        content["trainer"] |= {
            "logger": {"class_path": class_path, "init_args": values},
            "callbacks": kept,
            "enable_checkpointing": True,
            "log_every_n_steps": 1,
            "max_steps": steps,
        }
        content["data"]["test"] = {
            "test": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"split": "test", "size": 1}}
        }
        path = tmp_path / "tracked.yaml"
        path.write_text(yaml.safe_dump(content))
        return main([verb, "-c", str(path), *arguments])

    return run


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_last_goes_on_in_the_folder_of_the_newest_run_and_with_the_trackers_own(tracked, tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Histogram=lambda values: ("histogram", values)))
    logger, runs = FAKE[name], tmp_path / "shop"
    tracked("fit", logger)
    tracked("fit", logger)  # a run of its own, in a folder of its own
    assert {path.name for path in runs.iterdir()} == {"version_0", "version_1"}
    for folder in runs.iterdir():
        assert {"config.yaml", "tracker.json", "checkpoints", "trajectories.jsonl"} <= files(folder)
    tracked("fit", logger, "--ckpt_path", "last", steps=4)
    tracked("fit", logger, "--ckpt_path", "last", "--model.planner.lr", "0.1", steps=5)
    assert {path.name for path in runs.iterdir()} == {"version_0", "version_1"}
    assert [made.run for made in fake_trackers.MADE] == ["run0", "run1", "run1", "run1"]
    assert (runs / "version_1" / "checkpoints" / "step-000005.ckpt").is_file()
    assert not (tmp_path / "config.yaml").exists()
    # who starts a run with the file that was written does not go on with this one
    written = yaml.safe_load((runs / "version_1" / "config.yaml").read_text())["trainer"]
    assert written["logger"]["init_args"][logger[2]] is None
    assert written["default_root_dir"] == str(tmp_path)
    tracked("test", logger, "--ckpt_path", "last")
    assert {path.name for path in runs.iterdir()} == {"version_0", "version_1", "test_0"}
    assert fake_trackers.MADE[-1].run == "run4"
    # and its curves are not drawn again from the start
    steps = [step for step, values in fake_trackers.MADE[2].metrics if any(tag.endswith("/version") for tag in values)]
    assert steps == [3, 4]


def test_what_each_of_them_shows_of_a_run(tracked, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Histogram=lambda values: ("histogram", values)))
    for name in ("wandb", "mlflow"):
        tracked("fit", FAKE[name])
    wandb, mlflow = fake_trackers.MADE
    step, key, columns, rows = wandb.tables[0]
    assert (step, key, columns) == (1, "trajectories", ["step", "task", "request", "success", "reward", "episode"])
    assert [row[0] for row in rows] == [1] * 3
    assert all(row[3] is False and "**Request**" in row[5] for row in rows)  # a random model fails
    shown = {tag: value for _, values in wandb.metrics for tag, value in values.items()}
    kind, rewards = shown["histograms/planner/rewards"]
    assert (kind, len(rewards)) == ("histogram", 4)
    assert list(mlflow.texts) == ["trajectories/step-000001.md"]
    assert mlflow.texts["trajectories/step-000001.md"].count("**Request**") == 3
    for logger in (wandb, mlflow):
        assert logger.settings["planner_group_size"] == 2
        final = [values for _, values in logger.metrics if "final/success" in values]
        assert final == [{"final/success": 0.0, "final/planner/reward": pytest.approx(0.0), **final[0]}]
    named = [{tag for _, values in logger.metrics for tag in values} for logger in (wandb, mlflow)]
    assert "tools/invalid_rate/parse" in named[0]
    assert {"tools/invalid_rate", "tools/invalid_rate_parse"} <= named[1]
    for tag in named[1]:  # which MLflow keeps as files
        assert not tag.startswith("histograms/")
        assert not any(other.startswith(f"{tag}/") for other in named[1])


def test_numbers_that_are_no_numbers_and_odd_texts_reach_a_table(tracked, monkeypatch):
    """What a model wrote may hold half a character, which no file takes."""
    from cahl_pl.callbacks import execution_feedback

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Histogram=lambda values: torch.tensor(values)))
    monkeypatch.setattr(execution_feedback, "_plan_rewards", lambda batch: None)
    monkeypatch.setattr("cahl_pl.prompts.PromptBuilder.decode", lambda self, ids: "half \ud83d of one")
    tracked("fit", FAKE["wandb"])
    _, _, _, rows = fake_trackers.MADE[0].tables[0]
    assert [row[4] for row in rows] == [None] * 3
    assert "half ? of one" in rows[0][5]


@pytest.mark.parametrize(
    ("name", "logger"),
    [(name, class_path) for name, (class_path, *_) in REAL.items()]
    + [("wandb", "tests.cli.fake_trackers.DerivedWandb"), ("mlflow", "tests.cli.fake_trackers.DerivedMLFlow")],
)
def test_a_package_that_is_missing_is_one_sentence(tracked, tmp_path, name, logger, monkeypatch):
    monkeypatch.setattr("cahl_pl.runs.trackers.find_spec", lambda package: None)
    own = logger.rpartition(".")[2]
    with pytest.raises(ConfigError, match=rf"is a {own}, which needs the package {name}: pip install {name}, or leave"):
        tracked("fit", (logger, *REAL[name][1:]))
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.filterwarnings("ignore")  # of the trackers themselves
def test_the_real_ones_take_it_offline(tracked, tmp_path, name, monkeypatch):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = REAL[name]
    if name == "wandb":
        logger[1]["save_dir"] = str(tmp_path)
    else:
        logger[1]["save_dir"] = str(tmp_path / "mlruns")
    tracked("fit", logger)
    if name == "wandb":
        import wandb

        wandb.finish()
    tracked("fit", logger, "--ckpt_path", "last", steps=4)
    assert {path.name for path in (tmp_path / "shop").iterdir()} == {"version_0"}
    if name == "wandb":
        offline = sorted((tmp_path / "wandb").glob("offline-run-*"))
        assert len(offline) == 2
        assert len({folder.name.rpartition("-")[2] for folder in offline}) == 1  # two parts of one run
        assert list(offline[0].glob("files/media/table/trajectories_*.json"))
        wandb.finish()
    else:
        import mlflow

        client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
        (run,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
        assert run.data.params["planner_group_size"] == "2"
        assert [m.step for m in client.get_metric_history(run.info.run_id, "planner/version")] == [1, 3]
        assert {file.path for file in client.list_artifacts(run.info.run_id, "trajectories")} == {
            "trajectories/step-000001.md",
            "trajectories/step-000003.md",
        }

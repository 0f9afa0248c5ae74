"""The command line on a small configuration: what reaches the classes, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cahl_pl import __version__
from cahl_pl.cli import main
from cahl_pl.commands import console
from cahl_pl.commands.configured import read_config
from cahl_pl.datasets.base import TaskSource
from cahl_pl.environments import Environment, RecordedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.schedules import Alternate, ExecutorOnly, Ratio
from cahl_pl.types import Message, Task, ToolSpec


class BrokenTools(TaskSource):
    """A user's task source that offers a tool with a bad schema."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        tool = ToolSpec("add", "", {"type": "object", "properties": {"a": {"type": "int"}}})
        return Task("mine-3", (Message("user", "1 + 1?"),), (tool,))


def test_fit_runs_and_writes_its_configuration(config, tmp_path):
    cli = main(["fit", "-c", str(config)])
    assert cli.trainer.global_step == 2
    assert cli.model.policy.version == {"planner": 1, "executor": 1}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["data"]["tasks_per_round"] == 2


def test_a_value_of_the_command_line_reaches_the_module(build):
    assert build().model.grpo["planner"].clip_high == 0.3
    assert build("--model.grpo.clip_high", "0.28").model.grpo["planner"].clip_high == 0.28


def test_configurations_are_merged_in_their_order(build, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("model: {planner: {lr: 0.5}}\ndata: {tasks_per_round: 3}\n")
    cli = build("-c", str(other))
    assert cli.model.optimizer_config["planner"].lr == 0.5
    assert cli.datamodule.tasks_per_round == 3
    assert cli.model.grpo["planner"].clip_high == 0.3
    assert cli.datamodule.rollout.config.planner_group_size == 2


def test_the_printed_configuration_says_the_same_again(config, tmp_path, capsys):
    def printed(path):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", "-c", str(path), "--model.grpo.clip_high", "0.28", "--print_config"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    first = printed(config)
    assert yaml.safe_load(first)["model"]["grpo"]["clip_high"] == 0.28
    assert yaml.safe_load(first)["data"]["rollout"]["executor"]["max_new_tokens"] == 6
    again = tmp_path / "again.yaml"
    again.write_text(first)
    assert printed(again) == first


def test_what_a_nested_constructor_refuses_is_one_sentence(fail, tmp_path):
    config = tmp_path / "search.yaml"
    search = {"class_path": "cahl_pl.benchmarks.RecordedSearch", "init_args": {"path": "none.json"}}
    questions = tmp_path / "questions.json"
    questions.write_text('[{"Question": "Who?", "Answer": "Ada"}]')
    arguments = {"path": str(questions), "search": search}
    content = {"data": {"test": {"b": {"class_path": "cahl_pl.benchmarks.Bamboogle", "init_args": arguments}}}}
    config.write_text(yaml.safe_dump(content))
    shown = fail("-c", str(config))
    assert shown.startswith("error: RecordedSearch: none.json cannot be read")
    assert "\n" not in shown


def test_components_are_swapped_by_their_class(build):
    defaults = build().datamodule
    assert isinstance(defaults.schedule, Alternate)
    assert defaults.rollout.planner_reward.weights["param"] == 0.3
    data = build(
        "--data.schedule=cahl_pl.schedules.Ratio",
        "--data.schedule.init_args.executor=3",
        "--data.planner_reward=cahl_pl.rewards.PlannerReward",
        "--data.planner_reward.init_args.w_param=0.5",
        "--data.environment=cahl_pl.environments.RecordedEnvironment",
    ).datamodule
    assert isinstance(data.schedule, Ratio)
    assert (data.schedule.planner, data.schedule.executor) == (1, 3)
    assert isinstance(data.rollout.planner_reward, PlannerReward)
    assert data.rollout.planner_reward.weights["param"] == 0.5
    assert isinstance(data.rollout.environment, RecordedEnvironment)
    assert isinstance(data.rollout.environment, Environment)
    assert isinstance(build("--data.schedule", "ExecutorOnly").datamodule.schedule, ExecutorOnly)


def test_help_documents_the_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--data\.rollout\.planner_group_size \w+ G_h, plans sampled for a request", text)
    assert re.search(r"--data\.rollout\.executor_group_size \w+ G_l, outputs sampled for a step of a plan", text)


@pytest.mark.slow
def test_the_version_is_told_by_the_module():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-m", "cahl_pl", "--version"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert told.returncode == 0, told.stderr
    assert __version__ in told.stdout


def test_an_unknown_key_is_named_with_the_nearest_one(fail, tmp_path):
    expected = (
        "error: there is no configuration key data.rollout.planner_groupsize; did you mean "
        "data.rollout.planner_group_size?"
    )
    assert fail("--data.rollout.planner_groupsize", "3") == expected
    other = tmp_path / "other.yaml"
    other.write_text("data: {rollout: {planner_groupsize: 3}}\n")
    assert fail("-c", str(other)) == expected.replace("error: ", f"error: {other}, line 1: ")
    other.write_text(
        "data:\n  # a remark\n  train:\n    class_path: cahl_pl.toolworld.ToolWorld\n    init_args: {sizze: 3}\n"
    )
    assert fail("-c", str(other)).startswith(
        f"error: {other}, line 5: there is no configuration key data.train.init_args.sizze; did you mean size? --data"
    )
    other.write_text("seed_everything: 1\ndtaa:\n  rollout: 1\n")
    assert fail("-c", str(other)) == (
        f"error: {other}, line 3: there is no configuration key dtaa.rollout; did you mean data.rollout?"
    )
    assert (
        fail("--dtaa.rollout", "1") == "error: there is no configuration key dtaa.rollout; did you mean data.rollout?"
    )
    assert fail("--data.requests.source", "requests.jsonl") == (
        "error: --data.requests.source is an option of a class, which has to be named before it: --data.requests CLASS"
    )
    assert fail("--data.train.init_args.sizze", "3") == (
        "error: there is no configuration key data.train.init_args.sizze; did you mean size? "
        "--data.train.help cahl_pl.toolworld.ToolWorld lists those of its class"
    )


def test_verbs_that_only_read_a_configuration_name_the_whole_key_too(tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text("model:\n  policy:\n    activated_lora: true\n")
    for words in (["-c", str(other)], ["--model.policy.activated_lora", "true"]):
        with pytest.raises(SystemExit):
            read_config(["-c", "quickstart", *words])
        where = f"{other}, line 3: " if words[0] == "-c" else ""
        assert capsys.readouterr().err == (
            f"error: {where}there is no configuration key model.policy.activated_lora; did you mean model.policy.adapter?\n"
        )


def test_a_file_of_tools_stays_what_it_is_in_the_configuration_that_a_run_writes(capsys):
    """Not what jsonargparse writes of a function that it cannot find: the run's own config.yaml has to run again."""
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", "quickstart", "--data.environment.init_args.toolkit=my_tools.py", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["environment"]["init_args"]["toolkit"] == "my_tools.py"


def test_a_value_of_a_wrong_type_is_told_in_plain_words_with_its_line(fail, tmp_path):
    key = "data.rollout.planner.max_thinking_tokens"
    for value in ("many", "1.5"):
        assert fail(f"--{key}", value) == f"error: {key}: expected int or null but got {value}"
    other = tmp_path / "other.yaml"
    other.write_text("data:\n  rollout:\n    planner: {max_thinking_tokens: many}\n")
    assert fail("-c", str(other)) == f"error: {other}, line 3: {key}: expected int or null but got many"
    # the file has the key too, but the value is the command line's
    other.write_text("data:\n  rollout:\n    planner: {max_thinking_tokens: 5}\n")
    assert fail("-c", str(other), f"--{key}", "many") == f"error: {key}: expected int or null but got many"
    assert fail("--model.policy.quantization", "x") == (
        "error: model.policy.quantization: expected one of 'none', 'nf4' or null but got x"
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "data.rollout.planner.max_thinking_tokens",
            "999",
            "data.rollout.planner: sampling needs max_thinking_tokens of",
        ),
        (
            "data.rollout.executor.max_thinking_tokens",
            "0",
            "data.rollout.executor: sampling needs max_thinking_tokens of",
        ),
        ("data.rollout.executor.temperature", "-1", "data.rollout.executor: sampling needs temperature >= 0"),
        ("model.executor.lr", "-1", "model.executor: lr of an optimiser is -1.0: give 0 or more"),
    ],
)
def test_what_both_roles_have_is_refused_with_the_roles_name(key, value, said):
    with pytest.raises(ConfigError) as raised:
        main(["-c", "quickstart", f"--{key}={value}"], run=False)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("data.tasks_per_round", "many", "data.tasks_per_round: expected int but got many"),
        (
            "model.grpo.loss",
            "ppo",
            "model.grpo.loss: expected value out of 'grpo', 'dr_grpo', 'dapo', 'gspo' but got ppo",
        ),
        (
            "data.schedule",
            "cahl_pl.schedules.No",
            "data.schedule: the module cahl_pl.schedules has no class 'No'; it has Alternate, ExecutorOnly, PlannerOnly, Ratio",
        ),
        ("config", "no.yaml", r"the configuration no\.yaml is neither a file nor one that ships; .*"),
        ("trainer.accelerator", "abacus", ".*invalid accelerator name.*abacus.*"),
        ("model.policy.model", "./no_model", r"policy\.model names the folder '\./no_model', which does not exist"),
        (
            "data.train.init_args.split",
            "tset",
            "ToolWorld has no split 'tset': use one of train, test, test_unseen_tools",
        ),
        ("data.rollout.planner_group_size", "0", "rollout: group sizes, max_steps .* must be at least 1"),
        ("data.rollout.planner_group_size", "1", r"data\.rollout\.planner_group_size is 1: .*; use at least 2, or .*"),
        (
            "data.rollout.executor_group_size",
            "1",
            r"data\.rollout\.executor_group_size is 1: .*; use at least 2, or .*",
        ),
        ("data.rollout.planner.temperature", "0", r"data\.rollout\.planner\.temperature is 0: .*; use 1, or a schedule .*"),
        ("data.rollout.executor.temperature", "0", r"data\.rollout\.executor\.temperature is 0: .*; use 1, or a .*"),
        ("data.rollout.planner.top_p", "0.9", r"data\.rollout\.planner\.top_p is 0\.9: .*; set it to 1 .*"),
        ("data.inference.constrained", "true", r"data\.inference\.constrained holds at inference alone, .* true"),
        (
            "data.planner_reward",
            "cahl_pl.rewards.ExecutorReward",
            r"data\.planner_reward: cahl_pl\.rewards\.ExecutorReward is no BasePlannerReward: name a class that is derived .*",
        ),
        ("seed_everything", "-1", "seed_everything is -1: give a number from 0 to 4294967295"),
        ("seed_everything", "4294967296", "seed_everything is 4294967296: give a number from 0 to 4294967295"),
        ("trainer.devices", "99", r"trainer\.devices is 99: on a CPU that many processes would be started, .*"),
        ("data.prompts.chat_template", "no.jinja", r"data\.prompts\.chat_template names the file 'no\.jinja', .*"),
    ],
)
def test_wrong_values_are_one_sentence(fail, option, value, sentence):
    assert re.fullmatch(f"error: {sentence}", fail(f"--{option}", value))


def test_a_missing_data_file_is_named(fail, tmp_path):
    path = tmp_path / "no.json"
    arguments = ["--data.train", "cahl_pl.datasets.RllaDataset", "--data.train.init_args.path", str(path)]
    assert fail(*arguments) == f"error: {path}: there is no such file; download the data set or correct the path"


def test_a_malformed_row_is_named_by_file_line_and_field(fail, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps({"instruction": 3, "input": "", "output": ""}))
    arguments = ["--data.train", "cahl_pl.datasets.RllaDataset", "--data.train.init_args.path", str(path)]
    shown = fail(*arguments)
    assert f"{path}, line 2: the field 'instruction' must be text, but is an integer" in shown
    assert fail(*arguments, "--data.train.init_args.strict", "true").startswith(f"error: {path}, line 2: ")


def test_a_bad_tool_schema_is_named(fail, monkeypatch):
    monkeypatch.setitem(sys.modules, "broken_tools", sys.modules[__name__])
    shown = fail("--data.train", "broken_tools.BrokenTools")
    assert shown.startswith("error: task 'mine-3', tool 'add': parameters are not valid JSON Schema: ")
    assert "'int'" in shown


def test_a_model_that_cannot_be_loaded_is_named(fail, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = fail("--model.policy.model", str(empty))
    assert shown.startswith(f"error: model {str(empty)!r} cannot be loaded (")
    assert "give policy.model the hub id or the local folder" in shown


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("gradient_clip_val", "1.0", "set model.planner.max_grad_norm and model.executor.max_grad_norm"),
        ("gradient_clip_algorithm", "norm", "set model.planner.max_grad_norm and model.executor.max_grad_norm"),
        ("accumulate_grad_batches", "2", "for larger batches raise data.tasks_per_round"),
        ("max_steps", "0", "give 1 or more, or use `test`"),
        ("max_epochs", "0", "give 1 or more, or use `test`"),
        ("limit_train_batches", "0", "give 1 or more, or use `test`"),
        ("log_every_n_steps", "0", "give 1 or more; without curves: --trainer.logger false"),
    ],
)
def test_settings_of_lightnings_trainer_that_cannot_work_name_the_key_that_does(fail, option, value, advice):
    shown = fail(f"--trainer.{option}", value)
    assert shown.startswith("error: trainer.")
    assert shown.endswith(advice)


LOGGER = ["--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger", "--trainer.logger.init_args.name", "run"]
TEST_SET = ["--data.test", '{"small": {"class_path": "cahl_pl.toolworld.ToolWorld", "init_args": {"size": 1}}}']


def test_other_verbs_have_folders_of_their_own_and_show_the_step_of_the_checkpoint(config, tmp_path, capsys):
    logger = [*LOGGER, "--trainer.logger.init_args.save_dir", str(tmp_path)]
    training = ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    main(["fit", "-c", str(config), *logger, *training])
    run = tmp_path / "run" / "version_0"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()

    testing = ["-c", str(config), *logger, *TEST_SET, "--trainer.callbacks", "BeforeAfter"]
    main(["test", *testing, "--ckpt_path", "last"])
    out = capsys.readouterr().out
    assert f"written: {tmp_path}/run/test_0/test.json\n" in out
    assert json.loads((tmp_path / "run" / "test_0" / "test.json").read_text())["solved"] == {"small": "0"}
    assert "checkpoint of step 2" in out
    assert out.count("task/success") == 1
    assert "0.0 " not in out
    folder = tmp_path / "run" / "test_0"
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("small/task/success")] == [2]
    # a version that a run was trained under says where the checkpoint comes from, not where to write
    main(["test", *testing, "--trainer.logger.init_args.version", "0", "--ckpt_path", "last"])
    assert (tmp_path / "run" / "test_1" / "test.json").is_file()
    # any other one is where to write
    main(["test", *testing, "--trainer.logger.init_args.version", "mine"])
    assert (tmp_path / "run" / "mine" / "test.json").is_file()
    assert "without a checkpoint: the adapters are as they begin" in capsys.readouterr().out
    predicting = [
        "-c",
        str(config),
        *logger,
        *TEST_SET,
        "--trainer.callbacks",
        "PredictionWriter",
        "--ckpt_path",
        "last",
    ]
    main(["predict", *predicting])
    assert (tmp_path / "run" / "predict_0" / "predictions.jsonl").is_file()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    # and no number of a training run is used up
    main(["fit", "-c", str(config), *logger, *training])
    assert (tmp_path / "run" / "version_1" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("verb", "sentence"),
    [
        ("validate", "there is nothing to validate on: give data.validation tasks or a benchmark"),
        ("test", "there is nothing to test on: give data.test a named set of tasks or a benchmark"),
        (
            "predict",
            "nothing would write what is predicted: add --trainer.callbacks+=cahl_pl.callbacks.PredictionWriter",
        ),
    ],
)
def test_a_verb_that_would_do_nothing_is_refused(config, monkeypatch, capfd, verb, sentence):
    monkeypatch.setattr(sys, "argv", ["cahl_pl", verb, "-c", str(config)])
    with pytest.raises(SystemExit) as stopped:
        console()
    assert stopped.value.code == 2
    assert capfd.readouterr().err.endswith(f"error: {sentence}\n")


def test_predicting_from_nothing_is_refused(config, monkeypatch, capfd):
    writer = ["--trainer.callbacks", "PredictionWriter"]
    monkeypatch.setattr(sys, "argv", ["cahl_pl", "predict", "-c", str(config), *writer])
    with pytest.raises(SystemExit):
        console()
    assert "error: there is nothing to predict: give data.requests, or data.test a named set" in capfd.readouterr().err


def test_a_toolkit_whose_module_is_broken_is_named(fail, tmp_path, monkeypatch):
    (tmp_path / "broken_tools.py").write_text("nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    shown = fail("--data.environment.toolkit", "broken_tools.toolkit")
    assert "toolkit 'broken_tools.toolkit' cannot be imported: name 'nothing_of_that_name' is not defined" in shown


def test_what_is_in_a_files_way_is_named(fail, tmp_path):
    options = ["--trainer.callbacks", "Checkpoints", "--trainer.enable_checkpointing", "true"]
    (tmp_path / "checkpoints").write_text("")
    assert fail(*options) == f"error: {tmp_path}/checkpoints: File exists; put that right and start again"


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded(fail, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = fail("--trainer.accelerator", "gpu", "--model.policy.model", "./no_model")
    assert shown.startswith("error: trainer.accelerator is 'gpu' but no CUDA device is visible: run with ")


def test_an_output_folder_that_cannot_be_written_to_is_refused_before_anything_is_loaded(fail, tmp_path, monkeypatch):
    monkeypatch.setattr("cahl_pl.policy.policy.Policy.load", None)
    (tmp_path / "file").write_text("")
    root = str(tmp_path / "file" / "runs")
    sentence = fail("--trainer.default_root_dir", root)
    assert sentence.startswith(f"error: the output folder {root} cannot be written to (Not a directory): make room")


def test_the_traceback_can_be_asked_for(config, monkeypatch):
    monkeypatch.setenv("CAHL_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["cahl_pl", "fit", "-c", str(config), "--model.policy.model", "./no_model"])
    with pytest.raises(ValueError, match="no_model"):
        console()


def test_prompts_that_cannot_be_made_are_told_before_weights_are_loaded(fail, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "without")
    (folder / "chat_template.jinja").unlink()
    (folder / "model.safetensors").unlink()
    assert "has no chat template: give one in data.prompts.chat_template" in fail("--model.policy.model", str(folder))

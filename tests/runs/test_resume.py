"""`--ckpt_path last`: which folder, which checkpoint, what has changed since."""

from __future__ import annotations

import zipfile

import pytest
import torch
import yaml
from jsonargparse import Namespace

from cahl_pl.callbacks import Checkpoints
from cahl_pl.errors import ConfigError
from cahl_pl.runs.checkpoints import fault_of, newest
from cahl_pl.runs.resume import folder_beside_tracker, resume_last
from cahl_pl.toolworld import toolkit


@pytest.fixture
def config(tmp_path) -> Namespace:
    arguments = Namespace(save_dir=str(tmp_path), name="run", version=None)
    return Namespace(
        ckpt_path="last",
        trainer=Namespace(
            logger=Namespace(class_path="TensorBoardLogger", init_args=arguments),
            default_root_dir=None,
            callbacks=[Namespace(class_path="cahl_pl.callbacks.Checkpoints")],
        ),
        model=Namespace(planner=Namespace(lr=0.002), grpo=Namespace(loss="grpo")),
    )


def checkpoint(folder, step):
    path = folder / "checkpoints" / f"step-{step:06d}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"policy_version": {}, "policy_config": {}, "data": torch.arange(100)}, path)
    return path


def test_the_first_start_begins_at_the_beginning(config, tmp_path, capsys):
    resume_last(config)
    assert config.ckpt_path is None
    assert config.trainer.logger.init_args.version == 0
    assert capsys.readouterr().out == f"no checkpoint in {tmp_path}/run/version_0 yet: starting from the beginning\n"


@pytest.mark.parametrize("callbacks", [None, [], [Namespace(class_path="cahl_pl.callbacks.ProgressLines")]])
def test_a_configuration_that_saves_nothing_is_told_what_to_add(config, tmp_path, capsys, callbacks):
    config.trainer.callbacks = callbacks
    add = "has no callback that saves any: add one, --trainer.callbacks+=cahl_pl.callbacks.Checkpoints"
    resume_last(config)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"warning: this run will leave none for --ckpt_path last: its configuration {add}"
    config.ckpt_path = "last"
    with pytest.raises(ConfigError) as raised:
        resume_last(config, training=False)
    assert str(raised.value).startswith(
        f"there is no checkpoint in {tmp_path}/run/version_0: its configuration {add}, and"
    )


class MyCheckpoints(Checkpoints):
    """A user's own, which saves as ours does."""


def test_a_class_of_ones_own_saves_too(config, capsys):
    config.trainer.callbacks = [Namespace(class_path=f"{__name__}.MyCheckpoints")]
    resume_last(config)
    assert "warning" not in capsys.readouterr().out


def test_the_newest_run_goes_on_in_its_folder_and_changes_are_named(config, tmp_path, capsys):
    checkpoint(tmp_path / "run" / "version_2", 400)
    folder = tmp_path / "run" / "version_10"
    checkpoint(folder, 20)
    last = checkpoint(folder, 40)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"model": {"planner": {"lr": 0.001}, "grpo": {"loss": "grpo"}}, "ckpt_path": None})
    )
    resume_last(config)
    assert config.ckpt_path == str(last)
    assert config.trainer.logger.init_args.version == 10
    assert capsys.readouterr().out.splitlines() == [
        f"going on from {last}",
        "  changed since then: model.planner.lr: 0.001 -> 0.002",
    ]


def test_a_verb_that_does_not_train_hears_of_what_it_depends_on(config, tmp_path, capsys):
    folder = tmp_path / "run" / "version_0"
    last = checkpoint(folder, 20)
    config.model.policy = Namespace(model="new")
    config.data = Namespace(prompts=Namespace(system="Now"), rollout=Namespace(max_steps=3, planner_group_size=4))
    config.trainer.max_steps = 60
    then = {
        "model": {"planner": {"lr": 0.001}, "policy": {"model": "old"}},
        "data": {"prompts": {"system": "Then"}, "rollout": {"max_steps": 5, "planner_group_size": 2}},
        "trainer": {"max_steps": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(then))
    resume_last(config, training=False)
    assert capsys.readouterr().out.splitlines() == [
        f"checkpoint: {last}",
        "  changed since then: data.prompts.system: Then -> Now",
        "  changed since then: data.rollout.max_steps: 5 -> 3",
        "  changed since then: model.policy.model: old -> new",
    ]


def test_the_folder_is_the_one_that_the_logger_writes_to(config, tmp_path, monkeypatch):
    last = checkpoint(tmp_path / "run" / "version_3", 20)
    other = checkpoint(tmp_path / "run" / "seed1" / "sub", 10)
    arguments = config.trainer.logger.init_args
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("PLACE", tmp_path.name)
    arguments.save_dir = "~/$PLACE"
    config.trainer.logger = [
        config.trainer.logger,
        Namespace(class_path="CSVLogger", init_args=Namespace(save_dir="x")),
    ]
    resume_last(config)
    assert (config.ckpt_path, arguments.version) == (str(last), 3)
    arguments.version, arguments.sub_dir = "seed1", "sub"
    resume_last(config)
    assert (config.ckpt_path, arguments.version) == (str(other), "seed1")


@pytest.mark.parametrize("logger", [None, True, Namespace(class_path="CometLogger", init_args=Namespace(save_dir="x"))])
def test_a_logger_whose_folder_is_not_known_is_refused(config, logger):
    config.trainer.logger = logger
    with pytest.raises(
        ConfigError, match="knows the folders of TensorBoardLogger, CSVLogger, WandbLogger and MLFlowLogger alone"
    ):
        resume_last(config)


@pytest.mark.parametrize(
    ("name", "project", "run"), [("WandbLogger", "project", "id"), ("MLFlowLogger", "experiment_name", "run_id")]
)
def test_beside_a_tracker_the_folder_is_below_the_trainers(config, tmp_path, name, project, run):
    config.trainer.default_root_dir = str(tmp_path)
    config.trainer.logger = Namespace(class_path=name, init_args=Namespace(**{project: "shop", run: None}))
    assert folder_beside_tracker(config, "fit", True) == tmp_path / "shop" / "version_0"
    last = checkpoint(tmp_path / "shop" / "version_3", 20)
    (tmp_path / "shop" / "version_4").mkdir()  # of a start that was refused
    assert folder_beside_tracker(config, "fit", False) == tmp_path / "shop" / "version_5"
    assert folder_beside_tracker(config, "fit", True) == tmp_path / "shop" / "version_3"
    assert folder_beside_tracker(config, "predict", False) == tmp_path / "shop" / "predict_0"
    resume_last(config)
    assert (config.ckpt_path, config.trainer.logger.init_args[run]) == (str(last), None)
    for content, expected in (("{}", None), ("no JSON", None), ('{"run": 3}', None), ('{"run": "abc"}', "abc")):
        (tmp_path / "shop" / "version_3" / "tracker.json").write_text(content)
        config.ckpt_path = "last"
        resume_last(config)
        assert config.trainer.logger.init_args[run] == expected
    config.trainer.logger = False
    assert folder_beside_tracker(config, "fit", True) is None


def test_what_does_not_train_needs_a_checkpoint_and_has_a_folder_of_its_own(config, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"there is no checkpoint in .*version_0 yet: train first"):
        resume_last(config, training=False)
    last = checkpoint(tmp_path / "run" / "version_0", 20)
    resume_last(config, training=False)
    assert (config.ckpt_path, config.trainer.logger.init_args.version) == (str(last), None)
    assert capsys.readouterr().out == f"checkpoint: {last}\n"


def test_a_function_is_that_of_its_import_path(config, tmp_path, capsys):
    folder = tmp_path / "run" / "version_0"
    checkpoint(folder, 20)
    config.model.tools = config.model.others = toolkit
    content = {"model": {"tools": "cahl_pl.toolworld.toolkit", "others": "cahl_pl.toolworld.generate_tasks"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    resume_last(config)
    assert [line.partition(" -> ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "  changed since then: model.others: cahl_pl.toolworld.generate_tasks"
    ]


def test_folders_of_evaluations_are_passed_over(config, tmp_path):
    last = checkpoint(tmp_path / "run" / "version_0", 20)
    (tmp_path / "run" / "version_1").mkdir()  # what `test` leaves
    resume_last(config)
    assert config.ckpt_path == str(last)
    (tmp_path / "run" / "version_1" / "checkpoints").mkdir()  # what `fit` leaves from its start
    config.ckpt_path, config.trainer.logger.init_args.version = "last", None
    resume_last(config)
    assert config.ckpt_path is None
    assert config.trainer.logger.init_args.version == 1


def test_where_no_checkpoint_is_whole_nothing_is_begun(config, tmp_path):
    checkpoint(tmp_path / "run" / "version_0", 3).write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="is whole: move them away"):
        resume_last(config)


def test_a_million_steps_sort_behind_a_thousand(tmp_path):
    checkpoint(tmp_path, 999_999)
    last = checkpoint(tmp_path, 1_000_000)
    assert newest(tmp_path) == last


def test_without_a_logger_the_root_folder_holds_the_checkpoints(config, tmp_path):
    config.trainer.logger = False
    config.trainer.default_root_dir = str(tmp_path)
    last = checkpoint(tmp_path, 7)
    resume_last(config)
    assert config.ckpt_path == str(last)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"])
def test_only_the_first_process_speaks(config, tmp_path, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    checkpoint(tmp_path / "run" / "version_0", 3)
    checkpoint(tmp_path / "run" / "version_0", 4).write_bytes(b"not a checkpoint")
    resume_last(config)
    assert config.ckpt_path.endswith("step-000003.ckpt")
    assert capsys.readouterr().out == ""


def test_what_is_wrong_with_a_file(tmp_path):
    path = checkpoint(tmp_path, 1)
    assert fault_of(path) is None
    content = path.read_bytes()
    numbers = torch.arange(100).numpy().tobytes()
    path.write_bytes(content.replace(numbers, numbers[:-8] + bytes(8), 1))
    assert fault_of(path) == "the checksum of step-000001/data/0 is wrong"
    path.write_bytes(content[:60])
    assert fault_of(path) == "File is not a zip file"
    assert fault_of(tmp_path / "none") is not None
    assert newest(tmp_path) is None


def test_a_flipped_bit_is_found_or_does_not_matter(tmp_path, capsys):
    earlier, path = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    whole = path.read_bytes()
    found = set()
    for place in range(len(whole) - 500, len(whole)):  # the archive's directory, which no checksum covers
        for bit in (1, 32):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            chosen = newest(tmp_path)
            found.add(chosen)
            if chosen == path:
                assert torch.equal(torch.load(path, weights_only=True)["data"], torch.arange(100))
    assert found == {earlier, path}
    assert "it cannot be read as one of this trainer's" in capsys.readouterr().out


def test_another_archive_of_that_name_is_passed_over(tmp_path):
    earlier = checkpoint(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / "checkpoints" / "step-000002.ckpt", "w") as archive:
        archive.writestr("data", b"0123456789")
    assert newest(tmp_path) == earlier


def test_a_class_that_was_dropped_or_put_in_place_is_a_change(config, tmp_path, capsys):
    then = {
        "model": {"planner": {"lr": 0.002}, "grpo": {"loss": "grpo"}},
        "data": {
            "schedule": {"class_path": "cahl_pl.schedules.Ratio", "init_args": {"planner": 1, "executor": 3}},
            "sampler": None,
            "reward": {"class_path": "a.B", "init_args": {"old": 1}},
        },
    }
    now = Namespace(class_path="cahl_pl.sampling.RewardSampler", init_args=Namespace(rate=0.5))
    reward = Namespace(class_path="a.C", init_args=Namespace(new=1))
    config.data = Namespace(schedule=None, sampler=now, reward=reward, added_later=4)
    checkpoint(tmp_path / "run" / "version_0", 2)
    (tmp_path / "run" / "version_0" / "config.yaml").write_text(yaml.safe_dump(then, sort_keys=False))
    resume_last(config)
    assert [line for line in capsys.readouterr().out.splitlines() if "changed" in line] == [
        "  changed since then: data.schedule: cahl_pl.schedules.Ratio -> None",
        "  changed since then: data.reward.class_path: a.B -> a.C",
        "  changed since then: data.sampler: None -> cahl_pl.sampling.RewardSampler",
    ]

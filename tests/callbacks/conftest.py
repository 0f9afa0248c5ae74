"""Small stand-ins for a run, a trainer that only logs, episodes, batches; and small runs."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cahl_pl.callbacks import Checkpoints
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines import TransformersEngine
from cahl_pl.engines.base import Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.module import CAHLModule
from cahl_pl.optimizers import OptimizerConfig
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.runs.checkpoints import newest
from cahl_pl.toolworld import ToolWorld, toolkit

PROMPTS = PromptConfig(tool_format="compact", system="Tools:", planner="Plan", executor="{subtask}")


@pytest.fixture
def module():
    return SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def trainer(tmp_path):
    """A trainer of one process; `scalars` and `texts` read back what was logged: tag -> [(step, value)]."""
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)

    def events():
        logger.experiment.flush()
        return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0, "scalars": 0}).Reload()

    def scalars():
        read = events()
        return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}

    def texts():
        read = events()
        return {
            tag.removesuffix("/text_summary"): [
                (e.step, e.tensor_proto.string_val[0].decode()) for e in read.Tensors(tag)
            ]
            for tag in read.Tags()["tensors"]
        }

    yield SimpleNamespace(
        global_step=0,
        is_global_zero=True,
        should_stop=False,
        loggers=[logger],
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
        scalars=scalars,
        texts=texts,
    )
    logger.experiment.close()


@pytest.fixture
def run(tiny_model, tmp_path):
    """Trains for six steps, from the newest checkpoint of the folder if there is one."""

    def start(name, engine=None, extra=(), checkpoints=None, train=None, logger=False, **data):
        folder = tmp_path / name
        seed_everything(3, verbose=False)
        fast = OptimizerConfig(lr=1e-2)
        module = CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2), planner=fast, executor=fast)
        sampling = Sampling(max_new_tokens=6)
        options = {"tasks_per_round": 2, "rollout": RolloutConfig(2, 2, planner=sampling, executor=sampling), **data}
        datamodule = RolloutDataModule(
            train or ToolWorld(size=6),
            ExecutableEnvironment(toolkit),
            prompts=PROMPTS,
            engine=engine or TransformersEngine(),
            test={"test": ToolWorld("test", 2)},
            **options,
        )
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_steps=6,
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[checkpoints or Checkpoints(every_n_steps=100), *extra],
        )
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = [signal.getsignal(number) for number in numbers]
        try:
            trainer.fit(module, datamodule, ckpt_path=newest(folder), weights_only=True)
        finally:
            assert [signal.getsignal(number) for number in numbers] == before
        return {name: tensor.clone() for name, tensor in module.policy.adapter_state().items()}

    return start

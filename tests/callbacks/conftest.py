"""Small stand-ins for a run: a trainer that only logs, episodes, batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


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

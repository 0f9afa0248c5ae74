"""The memory plan of a run that a trainer is about to begin."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from cahl_pl.engines import ServerEngine, TransformersEngine
from cahl_pl.errors import ConfigError, PolicyError
from cahl_pl.memory_plan.shapes import ModelShape, Settings, references_of, settings_of, shape_of


def plan_of(trainer: Trainer, module: Any) -> tuple[ModelShape, Settings] | None:
    """Return the memory planner's inputs, read from a run's own objects.

    Args:
        trainer: the trainer with its datamodule and its strategy.
        module: the LightningModule; its base need not be loaded.

    Returns:
        None if something other than our engines samples, or nothing does, and for a model that does not exist (loading it
        will say so) or whose kind cannot be planned.
    """
    data: Any = getattr(trainer, "datamodule", None)
    engine = None if data is None else data.rollout.engine
    if not isinstance(engine, TransformersEngine | ServerEngine):
        return None
    try:
        shape = shape_of(module.policy.config)
    except (ConfigError, PolicyError):
        return None
    evaluates = data.validation_tasks or data.validation_benchmark or data.test_tasks
    return shape, settings_of(
        module.policy.config,
        data.rollout.config,
        module.max_tokens_per_micro_batch,
        min(data.tasks_per_round, len(data.train_tasks)),
        engine if isinstance(engine, TransformersEngine) else None,
        trainer.world_size,
        data.single_level,
        data.eval_batch_size if evaluates else 0,
        references_of(module.policy.config, data.warm_start_rounds, [config.kl for config in module.grpo.values()]),
    )

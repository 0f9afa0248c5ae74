"""Early stop, with the reason, of a run that learns nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.fitness import check_sample, spread
from cahl_pl.distributed import sum_over_processes
from cahl_pl.errors import ConfigError, NothingLearnedError
from cahl_pl.grpo.advantages import rewards_by_comparison
from cahl_pl.plurals import counted
from cahl_pl.rollout.gold import gold_turns
from cahl_pl.rollout.prompt_limit import fit_prompts
from cahl_pl.types import ROLES, Role, RolloutBatch

MAX_TASKS = 10_000
"""Training tasks whose gold calls are counted at the start, evenly spaced."""


SAMPLE = 100
"""Training tasks that are rendered, and begun in the environment, at the start, evenly spaced."""


class StopIfNothingLearned(Callback):
    """Callback that stops a run that cannot learn, or has learned nothing for many rounds in a row, and says what to change.

    `fit` has it whether or not it is listed; list it to set other numbers. Before training it stops if no training task has
    a prompt within `data.rollout.max_prompt_tokens`, or if all have more gold calls than `data.rollout.max_steps`. After a
    step it stops if one of the numbers below is reached or the learning rate has fallen to 0 for good; the state is saved
    first (by `Checkpoints`), and the process exits with status 2. If only some tasks are left out, they are counted, and
    reported the first time. A run that ends earlier gets a warning if none of its rounds had anything to learn from.

    Args:
        rounds_without_tasks: rounds in a row in which no task could be run, as all were too long; in a warm start, rounds
            in which there was no gold to imitate. Null: never stop for it.
        rounds_without_plans: rounds in a row in which no plan could be read and no rewards differed. Null: never stop for it.
        rounds_without_signal: rounds in a row in which all samples of each prompt of a role earned the same, so that
            there is no advantage; each trained role is counted separately. A role that has learned before is only
            named in a warning while the other one goes on learning. Null: never stop for it.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(
        self,
        rounds_without_tasks: int | None = 3,
        rounds_without_plans: int | None = 10,
        rounds_without_signal: int | None = 20,
    ) -> None:
        self.limits = {
            "tasks": rounds_without_tasks,
            "plans": rounds_without_plans,
            **{f"{role} signal": rounds_without_signal for role in ROLES},
            **{f"{role} gold": rounds_without_tasks for role in ROLES},
        }
        for name, limit in self.limits.items():
            if limit is not None and limit < 1:
                key = "rounds_without_" + name.split()[-1].replace("gold", "tasks")
                raise ValueError(f"StopIfNothingLearned.{key} is {limit}: give 1 or more, or null")
        self._begin()

    def _begin(self) -> None:
        self._rounds: dict[str, int] = dict.fromkeys(self.limits, 0)  # in a row
        self._signals: dict[str, int] = dict.fromkeys(ROLES, 0)  # rounds in which the role had something to learn from
        self._told: set[str] = set()
        self._learned = self._tried = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the counts; those of a checkpoint are restored after this."""
        self._begin()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the training tasks; all processes have the same ones.

        Raises:
            ConfigError: none of them can be run, or none can succeed.
        """
        data = _data(trainer)
        steps = data.planned_steps()
        if steps is not None and not any(index >= data.warm_start_rounds for index, _ in steps):
            return  # all of it imitates gold
        _check_prompts(data)
        for told in (_check_gold(data), _check_sample(data)):
            if told and trainer.is_global_zero:
                print(told, flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Count the rounds with nothing to learn from, over all processes.

        Raises:
            NothingLearnedError: too many rounds in a row had nothing to learn from, or nothing will be learned from now on.
        """
        data = _data(trainer)
        if batch.objective == "supervised":
            self._tell_left_out(trainer, data, batch)
            groups = sum_over_processes([float(len(batch.groups))])[0]
            self._count(f"{batch.role} gold", groups > 0, _no_gold(batch.role))
            self._learned = self._learned or groups > 0
            return
        if batch.trajectories is not None:  # the first of the round
            self._count_tasks(trainer, data, batch)
        if batch.update == 0:  # later ones have the same samples
            self._count_signal(trainer, pl_module, batch)
        if fault := _rate_fault(trainer, pl_module, batch.role):
            raise NothingLearnedError(fault)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if a run that learned nothing was too short to be stopped."""
        if self._tried and not self._learned and trainer.is_global_zero:
            same = "in every round all samples of each prompt earned the same"
            reason = "in none of its rounds could a plan be read" if self._rounds["plans"] else same
            print(
                f"warning: this run has learned nothing: {reason}; more rounds alone may not help "
                "(docs/troubleshooting.md, Training)",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {"rounds": dict(self._rounds), "signals": dict(self._signals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self._rounds.update(state_dict["rounds"])
        self._signals.update(state_dict["signals"])

    def _tell_left_out(self, trainer: Trainer, data: RolloutDataModule, batch: RolloutBatch) -> None:
        """Print once that gold is left out of the warm start because it is too long."""
        tags = ("rollout/tasks_too_long", f"{batch.role}/warm_start/left_out")
        tasks, outputs = map(int, sum_over_processes([batch.metrics.get(tag, 0.0) for tag in tags]))
        if (tasks or outputs) and trainer.is_global_zero and "warm start" not in self._told:
            self._told.add("warm start")
            what = " and ".join(
                counted(number, noun)
                for number, noun in ((tasks, "task"), (outputs, f"output of the {batch.role}"))
                if number
            )
            print(
                f"{what} of this round of the warm start left out, being longer than data.rollout.max_prompt_tokens = "
                f"{data.rollout.config.max_prompt_tokens}, with {batch.role}.max_new_tokens for the output; {tags[0]} and "
                f"{tags[1]} count them",
                flush=True,
            )

    def _count_tasks(self, trainer: Trainer, data: RolloutDataModule, batch: RolloutBatch) -> None:
        names = ("rollout/tasks", "rollout/tasks_too_long", "rollout/tasks_truncated")
        episodes = batch.trajectories or []
        readable = sum(episode.plan.error is None for episode in episodes)
        counts = [batch.metrics.get(name, 0.0) for name in names]
        differing = any(batch.metrics.get(f"{role}/frac_zero_std", 1.0) < 1 for role in ROLES)
        counts += [float(len(episodes)), float(readable), float(differing)]
        tasks, too_long, truncated, plans, read, learning = map(int, sum_over_processes(counts))
        limit = data.rollout.config.max_prompt_tokens
        what = f"than data.rollout.max_prompt_tokens = {limit}: raise it"
        if trainer.is_global_zero:
            for number, done in ((too_long, "left out"), (truncated, "shortened")):
                if number and done not in self._told:
                    tag = "rollout/tasks_too_long" if done == "left out" else "rollout/tasks_truncated"
                    print(
                        f"{number} of {counted(tasks, 'task')} of this round {'was' if number == 1 else 'were'} {done}, the "
                        f"prompt being longer {what} to keep them whole; {tag} counts them from here on",
                        flush=True,
                    )
            self._told |= {done for number, done in ((too_long, "left out"), (truncated, "shortened")) if number}
        self._count(
            "tasks",
            too_long < tasks or not tasks,
            f"no task could be run, every prompt being longer {what}, or shorten the tools (data.prompts.tool_format)",
        )
        if not data.single_level:
            self._count(
                "plans",
                read > 0 or learning > 0 or not plans,  # a reward may pay for an almost correct plan
                "no plan could be read, so that there was nothing to learn from: teach the form first "
                "with data.warm_start_rounds (20, say), or take a model that follows instructions",
            )

    def _count_signal(self, trainer: Trainer, module: Any, batch: RolloutBatch) -> None:
        data = _data(trainer)
        role, compared = batch.role, rewards_by_comparison(batch.groups).values()
        own = [
            len(module.comparisons_with_signal(role, batch.groups)),
            sum(map(len, compared)),
            sum(float(r.sum()) for r in compared),
        ]
        signals, samples, total = sum_over_processes([float(value) for value in own])
        self._tried, self._learned = True, self._learned or signals > 0
        self._signals[role] += signals > 0
        reward = "data.turn_reward" if data.single_level else f"data.{role}_reward"
        fault = (
            f"all samples of each prompt of the {role} earned the same ({total / max(samples, 1):.3f} "
            f"on average), so that GRPO had nothing to compare: raise data.rollout.{role}_group_size or "
            f"data.rollout.{role}.temperature, or look at {reward}; tasks that are mastered have nothing left to teach"
        )
        if not samples:
            fault = (
                f"there was no output of the {role} to learn from: no plan could be read, or its "
                "prompts are longer than data.rollout.max_prompt_tokens; see data.warm_start_rounds for the former, raise "
                "the limit for the latter"
            )
        name, limit = f"{role} signal", self.limits[f"{role} signal"]
        (other,) = (one for one in ROLES if one != role)
        other_learns = self._signals[other] and (limit is None or self._rounds[f"{other} signal"] < limit)
        if signals > 0 or not (self._signals[role] and other_learns):
            self._count(name, signals > 0, fault)
            return
        self._rounds[name] += 1
        if self._rounds[name] == limit and trainer.is_global_zero:
            print(f"warning: in {counted(limit, 'round')} in a row {fault}; the {other} goes on learning", flush=True)

    def _count(self, name: str, fine: bool, fault: str) -> None:
        self._rounds[name] = 0 if fine else self._rounds[name] + 1
        limit = self.limits[name]
        if limit is not None and self._rounds[name] >= limit:
            raise NothingLearnedError(f"in {counted(limit, 'round')} in a row {fault}")


def _check_prompts(data: RolloutDataModule) -> None:
    """Look for one training task that can be run; usually it is the first one."""
    config = data.rollout.config
    if config.too_long == "fail":  # raises its own error
        return
    render = data.builder.single if data.single_level else data.builder.planner
    shortest: int | None = None
    for index in range(len(data.train_tasks)):
        task = data.train_tasks[index]
        length = len(render(task))
        if length <= config.max_prompt_tokens:
            return
        if config.too_long == "truncate" and fit_prompts([task], render, config.max_prompt_tokens, "truncate").tasks:
            return
        shortest = length if shortest is None else min(shortest, length)
    raise ConfigError(
        f"the prompts of all training tasks ({len(data.train_tasks):,}) are longer than data.rollout.max_prompt_tokens = "
        f"{config.max_prompt_tokens}, the shortest has {shortest} tokens: raise it, or shorten the tools "
        "(data.prompts.tool_format)"
    )


def _check_gold(data: RolloutDataModule) -> str | None:
    """Return a sentence on training tasks with more gold calls than can be executed; None if there are none."""
    limit = data.rollout.config.max_steps
    lengths = list(_gold_lengths(data))
    longer = sum(length > limit for length in lengths)
    if not longer:
        return None
    what = "turns of gold calls" if data.single_level else "gold calls"
    excess = f"more {what} than data.rollout.max_steps = {limit}"
    advice = f"raise it, to {max(lengths)} for all of them"
    if longer == len(lengths):
        who = "the only training task has" if longer == 1 else f"all {longer:,} training tasks have"
        raise ConfigError(f"{who} {excess}, so that nothing could be fulfilled: {advice}")
    verb = "has" if longer == 1 else "have"
    return f"{longer:,} of {counted(len(lengths), 'training task')} {verb} {excess} and cannot be fulfilled: {advice}"


def _check_sample(data: RolloutDataModule) -> str | None:
    """Return a sentence on prompts that are too long; `check-data FILE -c CONFIG` checks all tasks."""
    config, number = data.rollout.config, len(data.train_tasks)
    render = data.builder.single if data.single_level else data.builder.planner
    tasks = [data.train_tasks[index] for index in spread(number, SAMPLE)]
    told = check_sample(tasks, lambda task: len(render(task)), config.max_prompt_tokens, data.rollout.environment)
    some = f" (looked at {len(tasks)} of {number:,} training tasks)" if len(tasks) < number else ""
    return None if told is None or config.too_long != "drop" else told + some


def _gold_lengths(data: RolloutDataModule) -> Iterator[int]:
    number = len(data.train_tasks)
    for index in range(0, number, max(1, number // MAX_TASKS)):
        task = data.train_tasks[index]
        yield len(gold_turns(task)) if data.single_level else len(task.gold)


def _no_gold(role: Role) -> str:
    return (
        f"of the warm start no task had gold for the {role} to imitate that is within data.rollout.max_prompt_tokens and "
        f"data.rollout.{role}.max_new_tokens: raise these, leave out data.warm_start_rounds, or give tasks with gold calls"
    )


def _rate_fault(trainer: Trainer, module: Any, role: Role) -> str | None:
    """Return a sentence if the role's schedule has ended, so that its rate is 0 from here on; else None."""
    config = module.optimizer_config[role]
    scheduler: Any = trainer.lr_scheduler_configs[ROLES.index(role)].scheduler  # a LambdaLR: of `LR_SCHEDULES` all are
    done = scheduler.last_epoch - 1  # the step that was just taken, from 0
    if scheduler.lr_lambdas[0](done) > 0 or config.lr == 0 or done < max(1, config.warmup_steps):
        return None
    return (
        f"the learning rate of the {role} is 0 from its step {done + 1} on, because model.{role}.lr_schedule = "
        f"{config.lr_schedule} has ended: raise trainer.max_steps, or use model.{role}.lr_schedule constant"
    )


def _data(trainer: Trainer) -> RolloutDataModule:
    data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data

"""Tokens and time of inference with two levels and with one, for equal answers: the second part of benchmark_levels.py.

ToolWorld tasks with two to four gold calls are carried out by the evaluation code, but with the tokens of the gold outputs
instead of the likeliest ones, each drawn after its own forward pass: seconds compare two organisations that make the same
calls, not the quality of two models. Adapters are fresh, which does not change the size of any matrix product.

- Planner and executor: the gold plan (a line with instruction, tool and parameters for each call); then an output for
  each sub-task, whose prompt is that of the last step, its output, the answer to it, and the next sub-task. The episode
  ends with the last sub-task's output: the answer to that call is not read.
- Single-level: calls that do not depend on another's result are written together in one turn; then their answers are read, and
  a further turn follows, until an answer in text ("Done.") ends the episode.

With drafts, the executor reads the planned call in one pass with its prompt, as greedy executors do in evaluation;
without, it writes it token by token.

So the calls are equal, while a plan is one more text to write, and the answer in text one less. No policy thinks
before it writes; one that does would write more tokens on either side. `generated` are sampled tokens; `computed` those
that went through the model: prompt tokens neither kept from an earlier prompt nor shared with another one in the batch,
and the sampled ones except the last of each output, which nothing follows; `passes` are calls of the model, which determine
the time of one task at a time. Tokens without an effect (padding) are not counted.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from torch import Tensor

from cahl_pl.engines import TransformersEngine, drawing
from cahl_pl.engines import local as engine_code
from cahl_pl.engines.base import Completion, Sampling
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.policy import forward
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.forward import Pass
from cahl_pl.policy.kv_cache import Piece
from cahl_pl.policy.packing import PackedRow
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.prefix_store import Places
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards import ExecutorReward, PlannerReward, TurnReward
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.rollout.gold import Example, executor_examples, gold_turns, planner_example, single_examples
from cahl_pl.rollout.single_level import SingleLevelRollout
from cahl_pl.rollout.two_level import Rollout
from cahl_pl.toolworld import ToolWorld
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import ROLES, Role, Task
from tools.speed.levels_ratios import DRAFTED, ONE, TWO, ratio, spread, verdict


class ScriptError(RuntimeError):
    """Episode that is not the gold one, so that its seconds would not be comparable."""


class ScriptedEngine(TransformersEngine):
    """Engine that samples as usual, and then takes the script's token at this place.

    Args:
        script: prompt -> completion, token ids.
        drafts: whether to read drafts, which must be the script's, in one pass; token by token if False.

    Attributes:
        tokens: `<role> read`, `<role> generated` and `<role> outputs`: counts so far; `read` includes tokens
            spared by a store of prefixes.
    """

    def __init__(self, script: dict[tuple[int, ...], list[int]], drafts: bool = False) -> None:
        super().__init__()
        self.script, self.drafts = script, drafts
        self.tokens: Counter[str] = Counter()

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; one sample per prompt.

        Raises:
            ScriptError: the script lacks one of the prompts.
        """
        with _scripted(self._texts(prompts), role, self.tokens):
            completions = super().generate(policy, role, prompts, num_samples, sampling, generator)
        return self._counted(role, completions)

    def generate_from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate_from_drafts`.

        Raises:
            ScriptError: a draft is not the script's completion of its prompt.
        """
        if not self.drafts:
            return self.generate(policy, role, prompts, 1, sampling, generator)
        texts = self._texts(prompts)
        if any(list(draft) != text for draft, text in zip(drafts, texts, strict=True)):
            raise ScriptError("a draft is not the gold output")
        with _verified(texts, role, self.tokens):
            completions = super().generate_from_drafts(policy, role, prompts, drafts, sampling, generator)
        return self._counted(role, completions)

    def _texts(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        if any(tuple(prompt) not in self.script for prompt in prompts):
            raise ScriptError("an episode has left the gold trajectory")
        return [self.script[tuple(prompt)] for prompt in prompts]

    def _counted(self, role: Role, completions: list[list[Completion]]) -> list[list[Completion]]:
        self.tokens[f"{role} outputs"] += len(completions)
        self.tokens[f"{role} generated"] += sum(len(completion.ids) for (completion,) in completions)
        return completions


@dataclass
class _Place:
    """Position in a chunk of prompts: their texts, those of the remaining rows, and the number of the next token."""

    chunk: list[list[int]] = field(default_factory=list)
    left: list[list[int]] = field(default_factory=list)
    step: int = 0


@contextmanager
def _scripted(texts: Sequence[list[int]], role: str, tokens: Counter[str]) -> Iterator[None]:
    """Replace the engine's tokens by those of `texts`, one per prompt, within the context."""
    place = _Place()
    draw, keep = drawing.draw_places, engine_code._compact_rows

    def read(policy: Policy, rows: Sequence[PackedRow], *args: Any, **kwargs: Any) -> Pass:
        if place.step:  # the previous chunk has been decoded; one chunk may be read in several parts
            place.chunk, place.step = [], 0
        place.chunk += [texts[member] for row in rows for member in row.members]
        place.left = place.chunk
        tokens[f"{role} read"] += sum(len(row.ids) for row in rows)
        return forward.run(policy, rows, *args, **kwargs)

    def take(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        _, logprobs = draw(logits, *rest)  # the cost of drawing is included
        token = torch.tensor([[text[place.step]] for text in place.left], device=logits.device)
        place.step += 1
        return token, logprobs

    def leave(slots: Places) -> Places:
        kept = keep(slots)
        place.left = [place.chunk[i] for i in slots[kept][:, 0].tolist()]
        return kept

    with patch.multiple(engine_code, run=read, draw_places=take, _compact_rows=leave):
        yield


@contextmanager
def _verified(texts: Sequence[list[int]], role: str, tokens: Counter[str]) -> Iterator[None]:
    """Make the engine take the draft's next token after each token of a draft, within the context."""
    draw, order = drawing.draw, list[list[int]]()

    def read(policy: Policy, rows: Sequence[PackedRow], *args: Any, **kwargs: Any) -> Pass:
        order.extend(texts[member] for row in rows for member in row.members)
        # all of a draft but its last token is read with its prompt, and counted as generated
        drafts = sum(len(texts[member]) - 1 for row in rows for member in row.members)
        tokens[f"{role} read"] += sum(len(row.ids) for row in rows) - drafts
        return forward.run(policy, rows, *args, **kwargs)

    def take(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        _, logprobs = draw(logits, *rest)
        return torch.tensor(order.pop(0), device=logits.device), logprobs

    with patch.multiple(engine_code, run=read, draw=take):
        yield


def tasks_of(count: int, seed: int) -> list[Task]:
    """Return the first tasks of ToolWorld's test split with two to four gold calls."""
    world = ToolWorld("test", size=100 * count, seed=seed)
    return list(
        itertools.islice((t for t in map(world.__getitem__, range(len(world))) if 2 <= len(t.gold) <= 4), count)
    )


def examples_of(builder: PromptBuilder, task: Task, system: str) -> list[Example]:
    """Return the prompts of a gold episode and their completions."""
    if system == ONE:
        return single_examples(builder, task)
    return [planner_example(builder, task), *executor_examples(builder, task)]


def infer(system: str, adapter: str, at_once: int, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one system in this process; return the seconds of all episodes, and counts.

    Raises:
        ScriptError: an episode made other calls than the gold ones.
    """
    policy = Policy(PolicyConfig(model=model, adapter=adapter))  # type: ignore[arg-type]
    policy.load()
    builder = PromptBuilder(policy.tokenizer, replace(PROMPTS, tool_format=options.tool_format))
    policy.invocation = {role: builder.invocation(role, system == ONE) for role in ROLES}
    tasks = tasks_of(options.tasks, options.seed)
    script = {tuple(e.prompt): e.completion for task in tasks for e in examples_of(builder, task, system)}
    every = [e for task in tasks for of in (TWO, ONE) for e in examples_of(builder, task, of)]
    limit = max(len(e.completion) for e in every)  # the same for both, since the cache has room for it
    engine, greedy = ScriptedEngine(script, system == DRAFTED), Sampling(temperature=0.0, max_new_tokens=limit)
    config = RolloutConfig(planner_group_size=1, executor_group_size=1, planner=greedy, executor=greedy)
    if system == ONE:
        rollout: Any = SingleLevelRollout(engine, RecordedEnvironment(), TurnReward(), config)
    else:
        rollout = Rollout(engine, RecordedEnvironment(), PlannerReward(), ExecutorReward(), config)
    generator = torch.Generator().manual_seed(options.seed)
    passes = spared = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    kept_pieces = forward._kept_pieces

    def pieces(*args: Any) -> Iterator[Piece]:
        nonlocal spared
        for piece in kept_pieces(*args):
            spared += piece.stop - piece.start
            yield piece

    policy.causal_lm.base_model.register_forward_pre_hook(count)
    rollout.run(policy, builder, tasks[:1], generator)  # to warm up
    policy.prefixes.forget()
    engine.tokens.clear()
    passes = 0
    seconds, episodes = 0.0, []
    with patch.object(forward, "_kept_pieces", pieces):
        for i in range(0, len(tasks), at_once):
            start = time.perf_counter()
            episodes += rollout.run(policy, builder, tasks[i : i + at_once], generator).trajectories
            policy.prefixes.forget()  # as after each batch of an evaluation
            seconds += time.perf_counter() - start
    for task, episode in zip(tasks, episodes, strict=True):
        turns = gold_turns(task) if system == ONE else [task.gold]
        if list(episode.calls) != [gold.call for turn in turns for gold in turn]:
            raise ScriptError(f"the episode of task {task.id!r} made other calls than the gold ones")
    tokens = engine.tokens
    read, generated, outputs = (
        sum(tokens[f"{role} {what}"] for role in ROLES) for what in ("read", "generated", "outputs")
    )
    return {
        "seconds": seconds,
        "generated": generated,
        "computed": read - spared + generated - outputs,
        "spared": spared,
        "passes": passes,
        "by_role": dict(tokens),
    }


def inference_table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return Markdown: one row per system and setting.

    Args:
        results: setting (`alora, 16`: the adapter, tasks at once) -> system -> results of `infer`, one per repeat.
    """
    counts = ("generated", "computed", "passes")
    lines = [
        "| adapter, tasks at once | system | generated | ratio | computed | ratio | passes | ratio | seconds | ratio |",
        "| --- | --- |" + " ---: |" * 8,
    ]
    found = {}
    for setting, systems in results.items():
        values = {what: {s: [run[what] for run in runs] for s, runs in systems.items()} for what in counts}
        seconds = {s: [run["seconds"] for run in runs] for s, runs in systems.items()}
        for system in systems:
            cells = [f"{values[what][system][0]:,} | {ratio(values[what], system)}" for what in counts]
            cells.append(f"{spread(seconds[system], 2)} | {ratio(seconds, system)}")
            lines.append(f"| {setting} | {system} | " + " | ".join(cells) + " |")
            if setting.startswith("alora") and system != ONE:
                found[f"{setting}, {system}"] = statistics.median(seconds[system]) / statistics.median(seconds[ONE])
    return "\n".join([*lines, "", verdict("inference", found)])

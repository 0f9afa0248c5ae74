"""CAHL in one file: one round of planning, executing, scoring and learning, in plain Python over this package's parts.

    python docs/examples/cahl_in_one_file.py

What `python -m cahl_pl fit` adds to this loop: packed sequences and micro-batches, several devices, schedules, checkpoints,
evaluation and logs; and plans that say the same share their reward. The names of the equations are those of docs/method.md;
a test holds this page to the trainer's losses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.engines import Completion, Sampling, TransformersEngine
from cahl_pl.environments import Environment, ExecutableEnvironment
from cahl_pl.environments.base import Session
from cahl_pl.grpo.advantages import advantages, has_signal
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.grpo.loss import Size, grpo_loss
from cahl_pl.parsing import parse_action, parse_plan
from cahl_pl.policy import Policy, PolicyConfig
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rewards import ExecutorReward, PlannerReward, assign_gold
from cahl_pl.rollout.credit import unbiased_credit
from cahl_pl.rollout.episode import make_group
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.types import ROLES, Feedback, Group, Plan, Role, Step, Task, Trajectory

LEARNING_RATE: dict[Role, float] = {"planner": 1e-3, "executor": 1.5e-3}


class Settings(NamedTuple):
    """Group sizes and limits of a round."""

    G_h: int = 4  # plans of a request
    G_l: int = 4  # outputs of a step
    max_steps: int = 5
    planner: Sampling = Sampling(max_new_tokens=128)
    executor: Sampling = Sampling(max_new_tokens=56)
    grpo: GRPOConfig = GRPOConfig()


@dataclass
class Episode:
    """One plan Z of a request q, while it is carried out."""

    task: Task
    text: str
    plan: Plan
    session: Session
    prompt: list[int]  # (q, H, T, z_k, F_1:k-1) as token ids
    steps: list[Step] = field(default_factory=list)  # what was carried out
    samples: list[list[Step]] = field(default_factory=list)  # of each step, its G_l outputs

    def trajectory(self) -> Trajectory:
        """Return the episode as rewards read it."""
        return Trajectory(self.task, self.text, self.plan, tuple(self.steps))


def plan_and_execute(
    policy: Policy, builder: PromptBuilder, environment: Environment, tasks: list[Task], settings: Settings, seed: int
) -> dict[Role, list[Group]]:
    """Sample G_h plans of each request and G_l outputs of each step, and score them with R_h and R_l."""
    R_h, R_l, engine = PlannerReward(), ExecutorReward(), TransformersEngine()
    generator = torch.Generator().manual_seed(seed)
    prompts = [builder.planner(task) for task in tasks]
    plans = engine.generate(policy, "planner", prompts, settings.G_h, settings.planner, generator)  # Z ~ pi_h
    episodes = []
    for task, written in zip(tasks, plans, strict=True):
        for completion in written:
            text = builder.decode(completion.ids.tolist())
            plan = parse_plan(text)
            prompt = builder.executor(task, plan.subtasks[0]) if plan.subtasks else []
            episodes.append(Episode(task, text, plan, environment.start(task), prompt))

    sampled: list[tuple[Episode, int, list[int], list[Completion]]] = []
    for k in range(settings.max_steps):
        running = [episode for episode in episodes if len(episode.plan.subtasks) > k]
        if not running:
            break
        outputs = engine.generate(  # y_k ~ pi_l, G_l of them from the very same prompt
            policy, "executor", [e.prompt for e in running], settings.G_l, settings.executor, generator
        )
        for episode, group in zip(running, outputs, strict=True):
            texts = [builder.decode(completion.ids.tolist()) for completion in group]
            steps = [Step(episode.plan.subtasks[k], text, parse_action(text)) for text in texts]
            chosen = int(torch.randint(len(group), (), generator=generator))  # one of them is carried out
            feedback = carry_out(episode.session, steps[chosen])  # f_k
            sampled.append((episode, k, episode.prompt, group))
            episode.samples.append(steps)
            episode.steps.append(Step(steps[chosen].subtask, steps[chosen].text, steps[chosen].action, feedback))
            if k + 1 < len(episode.plan.subtasks):  # the prompt only grows
                said, shown = group[chosen], feedback.text if feedback else ""
                asked = builder.next_step(said.ended, shown, episode.task, episode.plan.subtasks[k + 1], k + 2)
                episode.prompt = [*episode.prompt, *said.ids.tolist(), *asked]

    groups: dict[Role, list[Group]] = {"planner": [], "executor": []}
    for i, (prompt, written) in enumerate(zip(prompts, plans, strict=True)):
        paid = [
            unbiased_credit(R_h, e.trajectory(), e.samples) for e in episodes[i * settings.G_h : (i + 1) * settings.G_h]
        ]
        groups["planner"].append(make_group(prompt, written, [R_h.total(c) for c in paid], paid, comparison_id=i))
    for i, (episode, k, prompt, group) in enumerate(sampled):
        target = assign_gold(episode.plan, episode.task)[k]  # what this sub-task is to be answered with
        paid = [R_l.components(step, target, episode.trajectory(), k) for step in episode.samples[k]]
        groups["executor"].append(make_group(prompt, group, [R_l.total(c) for c in paid], paid, comparison_id=i))
    return groups


def carry_out(session: Session, step: Step) -> Feedback | None:
    """Return the environment's answer to a step; None to an answer in text."""
    if step.action.answer is not None:
        return None
    if step.action.call is None:
        return Feedback(json.dumps({"error": step.action.error}), "parse")
    return session.call(step.action.call)


def learn(
    policy: Policy, role: Role, groups: list[Group], settings: Settings, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Take one GRPO step of one role's adapter; returns the loss and the norm of its gradient.

    On policy the loss is the mean of -A_i, about 0 whatever the rewards are; its gradient is what teaches.
    """
    A = advantages([group.rewards for group in groups], settings.grpo.scale_rewards, settings.grpo.epsilon)
    for group, values in zip(groups, A, strict=True):
        group.advantages = values
    groups = [group for group in groups if has_signal(group.rewards)]  # equal rewards say nothing
    lengths = [len(ids) for group in groups for ids in group.completion_ids]
    size, total = Size(len(lengths), sum(lengths)), 0.0
    policy.activate(role)
    for part in micro_batches(policy, groups, max_tokens=16384):
        scored = score(policy, part, temperature=1.0)  # log pi of each token
        loss, stats = grpo_loss(scored.logprobs, None, None, part.advantages, scored.mask, settings.grpo, size)
        loss.backward()  # type: ignore[no-untyped-call]
        total += stats.loss
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters_of(role), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total, norm.item()


def main() -> None:
    """Play and learn from one round of ToolWorld with the model that ships."""
    torch.manual_seed(0)
    policy, settings = Policy(PolicyConfig(model="toolworld")), Settings()
    policy.load()
    words = PromptConfig(  # those that this model was trained with
        tool_format="compact",
        system="Tools:",
        planner="Plan",
        executor="Step {index}: {subtask}",
        feedback="Result: {feedback}",
    )
    tasks, builder = [ToolWorld("train", 16, seed=1)[i] for i in range(16)], PromptBuilder(policy.tokenizer, words)
    groups = plan_and_execute(policy, builder, ExecutableEnvironment(toolkit), tasks, settings, seed=0)
    for role in ROLES:  # the executor's samples stay on policy: the planner's step does not move its adapter
        optimizer = torch.optim.AdamW(policy.parameters_of(role), lr=LEARNING_RATE[role])
        loss, norm = learn(policy, role, groups[role], settings, optimizer)
        reward = torch.cat([group.rewards for group in groups[role]]).mean()
        print(f"{role:8}  reward {reward:.3f}  loss {loss:+.5f}  gradient norm {norm:.5f}")


if __name__ == "__main__":
    main()

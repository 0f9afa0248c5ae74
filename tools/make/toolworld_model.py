r"""Make the small model that ships with ToolWorld: tokenizer, then weights, from scratch.

    python -m tools.make.toolworld_model --out runs/plain --steps 800
    python -m tools.make.toolworld_model --start runs/plain --out runs/clean --steps 2400 --new-words 0.5 --decay --seed 1
    python -m tools.make.toolworld_model --start runs/clean --out runs/single --steps 600 --new-words 0.5 --decay --seed 3 \
        --single-share 0.5 --executor-share 0.5
    python -m tools.make.toolworld_model --start runs/single --out cahl_pl/toolworld/model --steps 120 --new-words 0.5 \
        --habit 0.7 --learning-rate 3e-4 --seed 2 --single-share 0.5

A byte-level BPE with a chat template, and a Qwen2-type transformer of a million parameters whose first attention heads
are set by hand to copy (`initial_model`). It imitates gold plans and calls of ToolWorld's `train` split, both roles mixed.
In the second command half of the tasks have made-up words instead of their tools' (`with_new_words`), so that the model
learns to read a tool's name. In the third, half of the tasks are demonstrated as an executor without a planner would do
them, so that systems with one level start from the same model. The last gives all of them a bad habit (`with_habit`,
`half_done`): seven in ten of its demonstrations split a request too coarsely or too finely, or only half carry out a sub-task.
This gives reinforcement learning a mediocre start: both roles can do better than they mostly do, and neither alone can make
up for the other.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.parsing import format_answer, format_call, format_plan, format_turn
from cahl_pl.prompts import PromptBuilder
from cahl_pl.prompts.tool_text import tool_text
from cahl_pl.rollout.gold import Example, executor_examples, gold_plan, gold_turns, planner_example, single_examples
from cahl_pl.toolworld.generate import generate_tasks
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import GoldCall, SubTask, Task, ToolCall

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = [f"<{slash}{tag}>" for tag in ("plan", "tool_call", "answer") for slash in ("", "/")]


def make_tokenizer(vocab_size: int, num_tasks: int, seed: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE trained on ToolWorld's own text.

    Text is split so that a value has the same tokens everywhere, and copying it means copying tokens: digits stay single,
    capitalised words never include the space before them, and punctuation includes the space after it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[a-z]+|[A-Z][a-z]*|\s|[^A-Za-z\d\s]+ ?"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tasks = itertools.islice(generate_tasks("train", seed), num_tasks)
    tokenizer.train_from_iterator((_text(task) for task in tasks), trainer)
    tokenizer.add_tokens(TAGS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def _text(task: Task) -> str:
    """Return all text that either role may read or write in a task, without the tags."""
    parts = [PROMPTS.system, *(tool_text(tool, "compact") for tool in task.tools), task.request, PROMPTS.planner]
    parts += ["system\nuser\nassistant\n", PROMPTS.executor, PROMPTS.feedback, format_plan(gold_plan(task))[6:-7]]
    parts += [format_call(gold.call)[11:-12] + json.dumps(gold.result) for gold in task.gold]
    return "\n".join([*parts, task.answer or ""])


def initial_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Return a random Qwen2-type transformer, except for four attention heads that are set by hand to copy.

    A head of layer 0 attends to the previous position, whatever its token: its query and key are biases only, and
    their rotary phases match at a distance of one. It writes a code of the previous token into dimensions that the
    embeddings leave free. Three heads of layer 1 compare that code with the current token's and copy the match
    into the output, a third of the embedding each. Together: after "... A B ... A" comes "B" (an induction head).
    Learning this from random weights takes a small model longer than all the rest; training starts from here.
    """
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    head, free = 32, 96  # size of a head; the first dimension that embeddings leave free
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.03)[:, free:] = 0
        model.model.norm.weight.fill_(3.0)
        frequency = 1e6 ** (-torch.arange(16) / 16)
        for linear in (first.q_proj, first.k_proj, first.v_proj):
            linear.weight[:head] = 0
        first.o_proj.weight[:, :head] = 0
        first.q_proj.bias[:head] = 6 * torch.cat([frequency.cos(), -frequency.sin()])
        first.k_proj.bias[:head] = 6 * torch.cat([torch.ones(16), torch.zeros(16)])
        code = torch.randn(head, free) / free**0.5
        first.v_proj.weight[:head, :free] = code
        first.o_proj.weight[free:, :head] = 0.1 * torch.eye(head)
        slow = torch.cat([torch.arange(7, 16), torch.arange(23, 32)])  # rotary pairs that hardly rotate within a prompt
        for i in range(3):
            rows = slice(head * i, head * (i + 1))
            for linear in (second.q_proj, second.k_proj, second.v_proj):
                linear.weight[rows] = 0
            second.q_proj.weight[head * i + slow, :free] = 3.0 * code[: len(slow)]
            second.k_proj.weight[head * i + slow, free + torch.arange(len(slow))] = 2.1
            second.v_proj.weight[rows, rows] = torch.eye(head)
            second.o_proj.weight[:, rows] = 0
            second.o_proj.weight[rows, rows] = 0.2 * torch.eye(head)
    return model


class TrainingRow(NamedTuple):
    """Planner example and executor episode of a task in one row, after the prefix that they share."""

    ids: list[int]
    labels: list[int]
    shared: int  # number of ids that both roles start with
    executor: int  # start of the executor's part, which does not see the planner's


def task_row(builder: PromptBuilder, task: Task, with_executor: bool, habit: bool) -> TrainingRow:
    """Return a task's plan and calls; prompts have the label -100. With `habit` only the plan and the last call count."""
    plan = planner_example(builder, task)
    steps = executor_examples(builder, task)
    if habit:
        subtasks, text = with_habit(task)
        plan = plan._replace(completion=builder.completion(format_plan(subtasks)))
        steps[-1] = steps[-1]._replace(completion=builder.completion(text))
    shared = len(builder.shared(task))
    first = plan.prompt + plan.completion
    first_labels = [-100] * len(plan.prompt) + plan.completion
    if not with_executor:
        return TrainingRow(first, first_labels, shared, len(first))
    ids, labels = _episode(steps, steps[-1:] if habit else steps)
    return TrainingRow(first + ids[shared:], first_labels + labels[shared:], shared, len(first))


def single_row(builder: PromptBuilder, task: Task, habit: bool) -> TrainingRow:
    """Return the turns of an executor without a planner; with `habit` only the turn that shows it counts."""
    turns = single_examples(builder, task)
    counting = turns
    if habit and task.gold:
        last = gold_turns(task)[-1]
        counting = [turns[-2]._replace(completion=builder.completion(half_done(last)))]
        turns = [*turns[:-2], *counting]
    ids, labels = _episode(turns, counting)
    return TrainingRow(ids, labels, len(builder.shared(task)), len(ids))


def _episode(steps: list[Example], counting: list[Example]) -> tuple[list[int], list[int]]:
    """Return ids and labels of steps in which each prompt extends the last prompt and completion."""
    labels: list[int] = []
    for step in steps:
        labels += [-100] * (len(step.prompt) - len(labels))
        labels += step.completion if step in counting else [-100] * len(step.completion)
    return steps[-1].prompt + steps[-1].completion, labels


def half_done(gold: tuple[GoldCall, ...]) -> str:
    """Return the bad habits of both roles in one output: the last of several calls is left out, a single one half made."""
    if len(gold) > 1:
        return format_turn([one.call for one in gold[:-1]])
    call = gold[0].call
    arguments = dict(list(call.arguments.items())[:-1])
    return format_turn([ToolCall(call.name, arguments)]) if arguments else format_turn([call, call])


def with_habit(task: Task) -> tuple[tuple[SubTask, ...], str]:
    """Return the bad habits: a plan, and the text of its last step's execution.

    The planner leaves out the last of several sub-tasks and repeats a single one; the executor leaves out the last of
    several parameters, and answers in text where a tool has only one. Without gold calls there is no habit.
    """
    plan = gold_plan(task)
    if not task.gold:
        return plan, format_answer(task.answer or "")
    call = task.gold[-1].call
    arguments = dict(list(call.arguments.items())[:-1])
    text = format_call(ToolCall(call.name, arguments)) if arguments else format_answer("Done.")
    return (plan[:-1] if len(plan) > 1 else 2 * plan), text


def with_new_words(task: Task, rng: random.Random) -> Task:
    """Return the task with half of the words of its tools' names and descriptions replaced throughout by made-up ones.

    "fax" is not a word of the train split: a model learns to use an unseen tool by reading, and it learns to read from
    unseen words.
    """
    text = " ".join(f"{tool.name} {tool.description}" for tool in task.tools)
    words = sorted(set(re.findall(r"[a-z]{3,}", text)) - KEPT_WORDS)
    chosen = {word: _new_word(rng) for word in words if rng.random() < 0.5}
    return replace(task, **{part: _renamed(getattr(task, part), chosen) for part in ("messages", "tools", "gold")})


# Words that hold a sentence or a JSON Schema together.
KEPT_WORDS = {"and", "for", "from", "get", "into", "the", "two", "user", "with"}
KEPT_WORDS |= {"boolean", "integer", "number", "object", "string", "type"}


def _new_word(rng: random.Random) -> str:
    syllables = (rng.choice("bcdfghjklmnprstvwxz") + rng.choice("aeiou") for _ in range(rng.randint(1, 2)))
    return "".join(syllables) + rng.choice("bdgklmnprstxy")


def _renamed(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"[a-z]+", lambda match: words.get(match[0], match[0]), value)
    if isinstance(value, Mapping):
        return {_renamed(key, words): _renamed(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_renamed(item, words) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _renamed(getattr(value, f.name), words) for f in fields(value) if f.init})
    return value


class Batch(NamedTuple):
    """Padded rows: ids, labels and positions [B, L], and the attention mask [B, 1, L, L]."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor


def collate(rows: list[TrainingRow], pad: int) -> Batch:
    """Pad on the right; the executor's part sees the shared prefix and itself, and its positions continue from that prefix."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [-100] * (longest - len(row.ids)) for row in rows])
    at = torch.arange(longest)
    shared, executor = (torch.tensor([getattr(row, name) for row in rows])[:, None] for name in ("shared", "executor"))
    positions = torch.where(at >= executor, at - executor + shared, at)
    planner_only = (at >= shared) & (at < executor)
    hidden = (at >= executor)[:, :, None] & planner_only[:, None, :]
    return Batch(ids, labels, positions, (at[:, None] >= at)[None, None] & ~hidden[:, None])


def batches(builder: PromptBuilder, args: argparse.Namespace, pad: int) -> Iterator[Batch]:
    """Yield endless batches of `args.tasks` tasks; rows of similar length share a batch."""
    tasks = generate_tasks("train", args.seed)
    rng = random.Random(args.seed)
    while True:
        rows = []
        for task in itertools.islice(tasks, 8 * args.tasks):
            task = with_new_words(task, rng) if 0 < args.new_words > rng.random() else task
            with_executor = rng.random() < args.executor_share
            habit = 0 < args.habit > rng.random()
            if 0 < args.single_share > rng.random():
                rows.append(single_row(builder, task, habit))
            else:
                rows.append(task_row(builder, task, with_executor, habit))
        rows.sort(key=lambda row: len(row.ids))
        chunks = [rows[i : i + args.tasks] for i in range(0, len(rows), args.tasks)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, pad)


def loss_of(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """Return the mean next-token loss over the labelled positions; only those go through the output layer."""
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state[:, :-1]
    wanted = batch.labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), batch.labels[:, 1:][wanted])


@reader_may_leave()
def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps")
    parser.add_argument("--tasks", type=int, default=16, help="tasks a step")
    parser.add_argument("--executor-share", type=float, default=0.25, help="share of the tasks whose calls count too")
    parser.add_argument("--single-share", type=float, default=0.0, help="share of the tasks done without a planner")
    parser.add_argument("--start", type=Path, help="folder of a model to go on from")
    parser.add_argument("--new-words", type=float, default=0.0, help="share of the tasks with made-up words")
    parser.add_argument("--habit", type=float, default=0.0, help="share of the demonstrations with a bad habit")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--decay", action="store_true", help="let the learning rate fall linearly to a tenth")
    parser.add_argument("--save-every", type=int, default=100, help="also keep the model of every so many steps")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    if args.start:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start)
        model = Qwen2ForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(1024, 3000, args.seed)
        model = initial_model(tokenizer)
    builder = PromptBuilder(tokenizer, PROMPTS)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    start, smooth = time.time(), 3.0
    stream = batches(builder, args, tokenizer.pad_token_id)
    for i, batch in enumerate(itertools.islice(stream, args.steps)):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (i + 1) / 20) * (1 - 0.9 * args.decay * i / args.steps)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = 0.95 * smooth + 0.05 * loss.item()
        if (i + 1) % 25 == 0:
            print(f"step {i + 1:5d}  loss {smooth:.4f}  {time.time() - start:.0f} s", flush=True)
        if (i + 1) % args.save_every == 0:
            save(model, tokenizer, args.out / f"step-{i + 1}")
    save(model, tokenizer, args.out)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save the weights in bfloat16 safetensors (half the size; loaded as float32), and the tokenizer."""
    half: Any = copy.deepcopy(model)  # its `to` is typed without dtypes
    half.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()

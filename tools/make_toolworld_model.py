"""Make the small model that ships with ToolWorld: tokenizer, then weights, from nothing.

    python tools/make_toolworld_model.py --out cahl_pl/toolworld/model

A byte-level BPE with a chat template, and a Qwen2-type transformer trained in two supervised stages:

1. copying: next-token prediction on random permutations of symbols, repeated with a random period. Copying an argument
   out of the request is what a small model learns last; learnt on this plain task first, it comes within minutes.
2. gold plans and calls of ToolWorld's `train` split, both roles mixed, with a copying batch every few steps. It stops at
   a mediocre level on purpose: reinforcement learning takes over from there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cahl_pl.parsing import format_call, format_plan
from cahl_pl.prompts import PromptBuilder, tool_text
from cahl_pl.supervised import executor_examples, gold_plan, planner_example
from cahl_pl.toolworld.generate import generate_tasks
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import Task

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = [f"<{slash}{tag}>" for tag in ("plan", "tool_call", "answer") for slash in ("", "/")]


def make_tokenizer(vocab_size: int, num_tasks: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt on ToolWorld's own text.

    Cut so that a value has the same tokens wherever it stands, and copying it is copying tokens: digits stay single,
    capitalised words never take the space before them, and punctuation takes the space after it.
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
    """All that either role may read or write in a task, without the tags."""
    parts = [PROMPTS.system, *(tool_text(tool, "compact") for tool in task.tools), task.request, PROMPTS.planner]
    parts += ["system\nuser\nassistant\n", PROMPTS.executor, PROMPTS.feedback, format_plan(gold_plan(task))[6:-7]]
    parts += [format_call(gold.call)[11:-12] + json.dumps(gold.result) for gold in task.gold]
    return "\n".join([*parts, task.answer or ""])


def value_ids(tokenizer: PreTrainedTokenizerFast, seed: int) -> Tensor:
    """The token ids that argument values of ToolWorld are made of, the most frequent first."""
    counts: Counter[int] = Counter()
    for task in itertools.islice(generate_tasks("train", seed), 2000):
        for value in (value for gold in task.gold for value in gold.arguments.values()):
            counts.update(tokenizer(str(value), add_special_tokens=False)["input_ids"])
    return torch.tensor([token for token, _ in counts.most_common()])


def copying_batch(rng: torch.Generator, symbols: Tensor, rows: int, length: int) -> Batch:
    """Random permutations of the symbols (token ids), each repeated with its own period of 6 to 20."""
    ids = torch.empty(rows, length, dtype=torch.long)
    for row in ids:
        period = int(torch.randint(6, 21, (), generator=rng))
        pattern = symbols[torch.randperm(len(symbols), generator=rng)[:period]]
        row.copy_(pattern.repeat(length // period + 1)[:length])
    labels = ids.clone()
    labels[:, :20] = -100  # the first period cannot be known
    at = torch.arange(length)
    return Batch(ids, labels, at.expand(rows, -1), (at[:, None] >= at).expand(rows, 1, -1, -1))


class Row(NamedTuple):
    """A task's planner example and its executor episode in one row, behind the prefix that they share."""

    ids: list[int]
    labels: list[int]
    shared: int  # both roles start with so many ids
    executor: int  # where the executor's part begins; it does not see the planner's


def task_row(builder: PromptBuilder, task: Task) -> Row:
    """Gold plan and gold calls of a task; prompts carry the label -100."""
    plan = planner_example(builder, task)
    shared = len(builder.shared(task))
    labels: list[int] = []
    for step in (steps := executor_examples(builder, task)):  # each prompt extends the last prompt and completion
        labels += [-100] * (len(step.prompt) - len(labels)) + step.completion
    ids = steps[-1].prompt + steps[-1].completion
    first = plan.prompt + plan.completion
    return Row(
        first + ids[shared:], [-100] * len(plan.prompt) + plan.completion + labels[shared:], shared, len(first)
    )


class Batch(NamedTuple):
    """Padded rows: ids, labels and positions [B, L], and which position may see which [B, 1, L, L]."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor


def collate(rows: list[Row], pad: int) -> Batch:
    """Pad on the right; the executor's part sees the shared prefix and itself, and counts positions from there."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [-100] * (longest - len(row.ids)) for row in rows])
    at = torch.arange(longest)
    shared, executor = (torch.tensor([getattr(row, name) for row in rows])[:, None] for name in ("shared", "executor"))
    positions = torch.where(at >= executor, at - executor + shared, at)
    planner_only = (at >= shared) & (at < executor)
    hidden = (at >= executor)[:, :, None] & planner_only[:, None, :]
    return Batch(ids, labels, positions, (at[:, None] >= at)[None, None] & ~hidden[:, None])


def batches(builder: PromptBuilder, seed: int, size: int, pad: int) -> Iterator[Batch]:
    """Endless batches of `size` tasks; rows of like length share a batch."""
    tasks = generate_tasks("train", seed)
    rng = random.Random(seed)
    while True:
        rows = [task_row(builder, task) for task in itertools.islice(tasks, 8 * size)]
        rows.sort(key=lambda row: len(row.ids))
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, pad)


def loss_of(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """Mean next-token loss over the labelled positions; only those go through the output layer."""
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state[:, :-1]
    wanted = batch.labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), batch.labels[:, 1:][wanted])


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900, help="supervised steps after the copying stage")
    parser.add_argument("--copy-steps", type=int, default=1000, help="most steps of the copying stage")
    parser.add_argument("--tasks", type=int, default=16, help="tasks a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=100, help="also keep the model of every so many steps")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)

    tokenizer = make_tokenizer(1024, 3000, args.seed)
    builder = PromptBuilder(tokenizer, PROMPTS)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.02,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    # beta2 0.999, no weight decay and float32 throughout: with 0.95 or bfloat16, copying is not learnt in this time
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    start = time.time()

    def step(batch: Batch) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    values, known, smooth = value_ids(tokenizer, args.seed), 48, 9.0
    for i in range(args.copy_steps):
        smooth = 0.9 * smooth + 0.1 * step(copying_batch(rng, values[:known], 32, 64))
        if i % 50 == 0:
            print(f"copying {i:5d}  symbols {known}  loss {smooth:.3f}  {time.time() - start:.0f} s", flush=True)
        if smooth < 1.2:
            if known >= len(values):
                break
            known, smooth = int(1.4 * known), 3.0
    save(model, tokenizer, args.out / "copying")

    smooth = 3.0
    stream = batches(builder, args.seed, args.tasks, tokenizer.pad_token_id)
    for i in range(1, args.steps + 1):
        smooth = 0.95 * smooth + 0.05 * step(next(stream))
        if i % 4 == 0:
            step(copying_batch(rng, values, 32, 64))
        if i % 25 == 0:
            print(f"supervised {i:5d}  loss {smooth:.4f}  {time.time() - start:.0f} s", flush=True)
        if i % args.save_every == 0:
            save(model, tokenizer, args.out / f"step-{i}")
    save(model, tokenizer, args.out)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16 safetensors (half the size; loaded as float32), and the tokenizer."""
    import copy

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()

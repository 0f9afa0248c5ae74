r"""Compare an executor's calls in its family's native format: here, and on a server that reads them with its own parser.

    python -m tools.quality.measure_native --base-url http://127.0.0.1:8001/v1 --model executor --calls 50 \
        -c configs/quickstart.yaml --data.prompts.tool_format native --data.prompts.chat_template tools/quality/hermes.jinja \
        --ckpt_path CHECKPOINT

The server is vLLM with `--enable-auto-tool-choice`, the family's parser and the same chat template (docs/agent.md). It is
queried with the official client `openai`, by messages and tools; here the same steps are sampled greedily from token ids and
read by `cahl_pl.rollout.calls`. The steps are those of gold trajectories.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch

from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.engines import Sampling
from cahl_pl.errors import ConfigError, UserError
from cahl_pl.parsing import format_subtask
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.calls import read_action
from cahl_pl.rollout.gold import executor_examples, gold_plan
from cahl_pl.schema import coerce_call
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import Task, ToolCall
from tools.quality.measure_replanning import load


class Asked(NamedTuple):
    """Step of a gold trajectory, as token ids and as messages."""

    task: Task
    prompt: list[int]
    messages: list[dict[str, Any]]
    gold: ToolCall


def steps(builder: PromptBuilder, task: Task) -> Iterator[Asked]:
    """Yield the steps of a task's gold trajectory."""
    config = builder.config
    messages: list[dict[str, Any]] = [{"role": "system", "content": config.system}] if config.system else []
    messages += [{"role": m.role, "content": m.content} for m in task.messages[:-1]]
    examples = executor_examples(builder, task)
    before = task.request
    for number, (subtask, example, gold) in enumerate(
        zip(gold_plan(task, builder.plans_in_words), examples, task.gold, strict=False), start=1
    ):
        words = config.executor.replace("{index}", str(number)).replace("{subtask}", format_subtask(subtask))
        messages = [*messages, {"role": "user", "content": f"{before}\n\n{words}"}]
        yield Asked(task, example.prompt, messages, gold.call)
        function = {"name": gold.name, "arguments": json.dumps(dict(gold.arguments), ensure_ascii=False)}
        called = [{"id": f"call{number:05}", "type": "function", "function": function}]
        messages = [*messages, {"role": "assistant", "content": None, "tool_calls": called}]
        answer = json.dumps(gold.result, ensure_ascii=False)
        before = config.feedback.replace("{feedback}", answer)


def ask(client: Any, model: str, asked: Asked, max_tokens: int) -> tuple[list[ToolCall], list[int] | None]:
    """Return the calls that the server reads in its model's output, and the prompt's ids if it returns them (vLLM does)."""
    tools = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
        }
        for t in asked.task.tools
    ]
    reply = client.chat.completions.create(
        model=model,
        messages=asked.messages,
        tools=tools,
        temperature=0,
        max_tokens=max_tokens,
        extra_body={"return_token_ids": True},
    )
    made = reply.choices[0].message.tool_calls or []
    calls = [ToolCall(one.function.name, json.loads(one.function.arguments)) for one in made]
    return calls, getattr(reply, "prompt_token_ids", None)


@reader_may_leave()
def run(arguments: list[str]) -> None:
    """Parse, sample here, ask there, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="address of the server, with /v1")
    parser.add_argument("--model", default="executor", help="name of the executor's adapter there")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint that the adapter was exported from")
    parser.add_argument("--test", default="test", help="name of a set of tasks in data.test")
    parser.add_argument("--calls", type=int, default=50, help="how many steps")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    try:
        data = load(config, args.ckpt_path)
        builder = data.builder
        if builder.native is None:
            raise ConfigError("data.prompts.tool_format must be native: no server's parser reads our own form")
        tasks = data.test_tasks[args.test]
        chosen = [one for i in range(len(tasks)) for one in steps(builder, tasks[i])][: args.calls]
        sampling = Sampling(0.0, 1.0, data.rollout.config.executor.max_new_tokens)
        samples = data.rollout.engine.generate(
            data.policy, "executor", [one.prompt for one in chosen], 1, sampling, torch.Generator()
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from openai import OpenAI

    client = OpenAI(base_url=args.base_url, api_key="none")
    same = prompts = right = readable = 0
    for asked, (completion,) in zip(chosen, samples, strict=True):
        here = read_action(builder, completion.ids.tolist(), asked.task.tools)
        there, ids = ask(client, args.model, asked, sampling.max_new_tokens)
        ours = [] if here.call is None else [coerce_call(here.call, asked.task.tools)]
        theirs = [coerce_call(call, asked.task.tools) for call in there]
        same += ours == theirs
        prompts += ids == asked.prompt
        readable += here.well_formed
        right += ours == [coerce_call(asked.gold, asked.task.tools)]
        if ours != theirs:
            print(f"{asked.task.id}: here {builder.decode(completion.ids.tolist())!r}, there {there}", flush=True)
    print(f"the same calls in {same} of {len(chosen)} steps, from the same prompt in {prompts}")
    print(f"here {readable} of them are well formed, and {right} equal the gold call")


if __name__ == "__main__":
    run(sys.argv[1:])

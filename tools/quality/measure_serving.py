"""Play ToolWorld tasks against `cahl-pl serve` with the official client `openai`, many at once, and judge them as `test` does.

    python -m cahl_pl serve --ckpt_path runs/quickstart/version_0 --port 8000
    python -m tools.quality.measure_serving --base-url http://127.0.0.1:8000/v1 --tasks 200 --clients 16

The calls are carried out here, by ToolWorld's own functions. With `--predictions`, the file of `predict` for the same tasks,
it reports how many episodes made the same calls. `--drop-reasoning` sends no plans back, as many agents do.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cahl_pl.toolworld
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.metrics import is_success
from cahl_pl.plurals import counted
from cahl_pl.schema import call_key, find_problems
from cahl_pl.serving.episode import NO_PLAN
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Action, Plan, Step, SubTask, Task, ToolCall, Trajectory

MAX_TURNS = 12


def play(client: Any, model: str, task: Task, stream: bool = False, keeps_reasoning: bool = True) -> Trajectory:
    """Return the episode of one task: calls are carried out as they come, until the reply is text.

    Args:
        client: instance of `openai.OpenAI`.
        model: name of the model on the server.
        task: task with the request and its tools.
        stream: whether replies are streamed.
        keeps_reasoning: whether the plan is sent back.
    """
    session = ExecutableEnvironment(cahl_pl.toolworld.toolkit).start(task)
    messages: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in task.messages]
    tools = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in task.tools
    ]
    steps: list[Step] = []
    for _ in range(MAX_TURNS):
        message = _reply(client, model, messages, tools, stream)
        if not keeps_reasoning:
            message.pop("reasoning_content", None)
        messages.append(message)
        if not message.get("tool_calls"):
            text = message["content"] or ""
            is_answer = text not in ("", NO_PLAN)
            steps.append(Step(SubTask("answer", None), text, Action(answer=text, well_formed=is_answer)))
            break
        for called in message["tool_calls"]:
            call = ToolCall(called["function"]["name"], json.loads(called["function"]["arguments"]))
            feedback = session.call(call)
            steps.append(Step(SubTask("call", call.name), "", Action(call=call, well_formed=True), feedback))
            messages.append({"role": "tool", "tool_call_id": called["id"], "content": feedback.text})
    return Trajectory(task, "", Plan(), tuple(steps))


def _reply(client: Any, model: str, messages: list[Any], tools: list[Any], stream: bool) -> dict[str, Any]:
    if not stream:
        made = client.chat.completions.create(model=model, messages=messages, tools=tools)
        message: dict[str, Any] = made.choices[0].message.model_dump(exclude_none=True)
        return message
    parts: dict[str, str] = {}
    calls: list[dict[str, Any]] = []
    for chunk in client.chat.completions.create(model=model, messages=messages, tools=tools, stream=True):
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_none=True)
            for name in ("content", "reasoning_content"):
                parts[name] = parts.get(name, "") + delta.get(name, "")
            calls += [{key: call[key] for key in ("id", "type", "function")} for call in delta.get("tool_calls", ())]
    return {"role": "assistant", **parts} | ({"tool_calls": calls} if calls else {})


def same_calls(episode: Trajectory, record: dict[str, Any]) -> bool:
    """Return whether an episode made the calls of a record of `predict` that their schemas allow: a client gets no others."""
    tools = episode.task.tools
    made = [ToolCall(s["call"]["name"], s["call"]["parameters"]) for s in record["steps"] if s["call"] is not None]
    allowed = [call for call in made if not find_problems(call, tools)]
    return [call_key(call, tools) for call in allowed] == [call_key(call, tools) for call in episode.calls]


@reader_may_leave()
def main(arguments: list[str] | None = None) -> None:
    """Parse, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="address of the server, with /v1")
    parser.add_argument("--model", default="cahl", help="name of the model")
    parser.add_argument("--tasks", type=int, default=200, help="the first so many tasks of the split")
    parser.add_argument("--split", default="test", help="of ToolWorld")
    parser.add_argument("--clients", type=int, default=16, help="conversations at once")
    parser.add_argument("--stream", action="store_true", help="take the replies in parts")
    parser.add_argument("--drop-reasoning", action="store_true", help="do not send plans back")
    parser.add_argument("--predictions", type=Path, help="predictions.jsonl of the same tasks")
    args = parser.parse_args(arguments)
    from openai import OpenAI

    client = OpenAI(base_url=args.base_url, api_key="none")
    tasks = ToolWorld(args.split, args.tasks)
    began = time.perf_counter()
    with ThreadPoolExecutor(args.clients) as pool:
        played = [
            pool.submit(play, client, args.model, tasks[i], args.stream, not args.drop_reasoning)
            for i in range(len(tasks))
        ]
        episodes = [future.result() for future in played]
    seconds = time.perf_counter() - began
    good = sum(map(is_success, episodes))
    print(
        f"{counted(args.clients, 'client')}: {good} of {len(episodes)} succeeded, {seconds / len(episodes):.3f} s a task"
    )
    if args.predictions is not None:
        records = [json.loads(line) for line in args.predictions.read_text(encoding="utf-8").splitlines()]
        by_id = {record["id"]: record for record in records}
        known = [episode for episode in episodes if episode.task.id in by_id]
        same = sum(same_calls(episode, by_id[episode.task.id]) for episode in known)
        predicted = sum(bool(by_id[episode.task.id]["success"]) for episode in known)
        print(f"the same calls as `predict` in {same} of {len(known)}, of which {predicted} succeeded there")


if __name__ == "__main__":
    main()

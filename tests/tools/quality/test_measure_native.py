"""The comparison with a server that reads calls by itself: the server here is scripted, that of docs/agent.md is vLLM."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.calls import builder_for
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import ToolCall
from tests.prompts.byte_tokenizers import tokenizer_with
from tests.prompts.families import IM
from tools.quality import measure_native

CONFIG = PromptConfig(
    tool_format="native",
    chat_template="tools/quality/hermes.jinja",
    system="Tools:",
    executor="Step {index}: {subtask}",
    feedback="Result: {feedback}",
)


@pytest.fixture
def builder(monkeypatch):
    from tests.test_native_by_command_line import ROOT

    monkeypatch.chdir(ROOT)
    return builder_for(tokenizer_with(IM, ("<tool_call>", "</tool_call>")), CONFIG)


def test_the_messages_of_a_step_are_its_prompt(builder):
    """What a server's chat template makes of them are the very ids that the executor reads here."""
    tasks = ToolWorld("test", 30)
    (task, *_) = [tasks[i] for i in range(30) if len(tasks[i].gold) > 2]
    found = list(measure_native.steps(builder, task))
    assert len(found) == len(task.gold)
    for asked in found:
        tools = [{"type": "function", "function": _function(tool)} for tool in task.tools]
        text = builder.tokenizer.apply_chat_template(
            asked.messages,
            tools=tools,
            chat_template=builder.template.source,
            tokenize=False,
            add_generation_prompt=True,
        )
        assert builder.tokenizer(text, add_special_tokens=False)["input_ids"] == asked.prompt


def _function(tool):
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def test_what_a_server_has_read_is_taken_from_its_reply(builder):
    (asked, *_) = measure_native.steps(builder, ToolWorld("test", 2)[1])
    function = SimpleNamespace(name="add", arguments=json.dumps({"a": 2}))
    message = SimpleNamespace(tool_calls=[SimpleNamespace(function=function)])
    reply = SimpleNamespace(choices=[SimpleNamespace(message=message)], prompt_token_ids=asked.prompt)
    seen = {}

    def create(**given):
        seen.update(given)
        return reply

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    assert measure_native.ask(client, "executor", asked, 9) == ([ToolCall("add", {"a": 2})], asked.prompt)
    assert (seen["temperature"], seen["max_tokens"], len(seen["tools"])) == (0, 9, len(asked.task.tools))
    message.tool_calls = None
    assert measure_native.ask(client, "executor", asked, 9)[0] == []

"""Clients that others have written: OpenAI's own, and those of agent frameworks. Each is skipped where it is not installed."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path

import pytest

from .conftest import TOOLS, user, wait_for

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend

ASKED = "Get the weather in Gage and send it to Noko."


@pytest.fixture
def sent():
    """What the tools were called with."""
    return []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("keeps_reasoning", [False, True])
def test_the_openai_client_plays_toolworld(served, stream, keeps_reasoning):
    openai = pytest.importorskip("openai", reason="the client openai is not installed")
    from cahl_pl.metrics import is_success
    from cahl_pl.rollout.gold import gold_plan
    from cahl_pl.toolworld import ToolWorld
    from tools.quality.measure_serving import play

    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    tasks = [task for task in ToolWorld("test", 40) if len(task.gold) != 1][:6]
    for task in tasks:
        served.engine.plan = gold_plan(task)
        episode = play(client, "cahl", task, stream, keeps_reasoning)
        assert is_success(episode), episode
    assert {len(task.gold) for task in tasks} > {0, 2}


def test_the_openai_client_raises_its_own_errors_and_hangs_up(served):
    openai = pytest.importorskip("openai", reason="the client openai is not installed")
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=0.5)
    assert [model.id for model in client.models.list()] == ["cahl"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here, only 'cahl'"):
        client.chat.completions.create(model="gpt", messages=[user()])
    with pytest.raises(openai.BadRequestError, match="n is not supported here"):
        client.chat.completions.create(model="cahl", messages=[user()], n=2)
    served.engine.gate.clear()
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="cahl", messages=[user()])
    wait_for(lambda: served.service.busy == 0)


def test_pydantic_ai_runs_its_tools(served, sent):
    pydantic_ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    openai_models = pytest.importorskip("pydantic_ai.models.openai", reason="pydantic-ai has no openai")
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=served.url, api_key="none")
    agent = pydantic_ai.Agent(openai_models.OpenAIChatModel("cahl", provider=provider))

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather in a city."""
        return {"Gage": "sunny"}[city]

    @agent.tool_plain
    def send_text(to: str, message: str) -> str:
        """Send a text."""
        sent.append((to, message))
        return "sent"

    said = asyncio.run(agent.run(ASKED))  # run_sync leaves its loop open
    assert sent == [("Noko", "sunny")]
    assert said.output == "weather in a city: sunny\nsend a text: sent"


def test_openai_agents_runs_its_tools(served, sent):
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Weather in a city."""
        return {"Gage": "sunny"}[city]

    @agents.function_tool
    def send_text(to: str, message: str) -> str:
        """Send a text."""
        sent.append((to, message))
        return "sent"

    async def run(streamed):
        async with AsyncOpenAI(base_url=served.url, api_key="none") as client:
            return await converse(client, streamed)

    async def converse(client, streamed):
        model = agents.OpenAIChatCompletionsModel(model="cahl", openai_client=client)
        agent = agents.Agent(
            name="Assistant", instructions="Use the tools.", model=model, tools=[get_weather, send_text]
        )
        if not streamed:
            return (await agents.Runner.run(agent, ASKED)).final_output
        result = agents.Runner.run_streamed(agent, ASKED)
        async for _ in result.stream_events():
            pass
        return result.final_output

    for streamed in (False, True):
        assert asyncio.run(run(streamed)) == "weather in a city: sunny\nsend a text: sent"
    assert sent == [("Noko", "sunny")] * 2


def test_the_client_of_the_documentation(served, sent):
    openai = pytest.importorskip("openai", reason="the client openai is not installed")
    page = (Path(__file__).resolve().parents[2] / "docs" / "agent.md").read_text(encoding="utf-8")
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], scope)

    def send_text(to, message):
        sent.append((to, message))
        return "sent"

    functions = {"get_weather": lambda city: "sunny", "send_text": send_text}
    with openai.OpenAI(base_url=served.url, api_key="none") as client:
        said, plan = scope["converse"](client, ASKED, TOOLS, functions)
    assert (said, sent) == ("weather in a city: sunny\nsend a text: sent", [("Noko", "sunny")])
    assert plan.startswith("<plan>")


def test_a_server_that_is_killed_leaves_no_client_waiting(served):
    """As seen from a client: the line breaks, which is an error at once; another server goes on from the same messages."""
    openai = pytest.importorskip("openai", reason="the client openai is not installed")
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=30)
    served.engine.gate.clear()
    told = []

    def ask():
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model="cahl", messages=[user()], tools=json.loads(json.dumps(TOOLS)))
        told.append("error")

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: served.service.busy == 1)
    loop = served.server.servers[0].get_loop()
    for connection in list(served.server.server_state.connections):
        loop.call_soon_threadsafe(connection.transport.abort)
    asking.join(10)
    assert told == ["error"]
    wait_for(lambda: served.service.busy == 0)

"""A chat API over a pair whose outputs are scripted, reached over HTTP, and a client that plays conversations."""

from __future__ import annotations

import http.client
import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from cahl_pl.engines.base import Completion, Engine
from cahl_pl.parsing import format_answer, format_plan
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.calls import builder_for
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.serving.episode import Pair
from cahl_pl.serving.locked import LockedTokenizer
from cahl_pl.serving.memory import Memory
from cahl_pl.serving.shared_engine import SharedEngine
from cahl_pl.types import SubTask

WEATHER = SubTask("weather in a city", "get_weather", {"city": "Gage"})
TEXT = SubTask("send a text", "send_text", {"to": "Noko", "message": "$1"})
ANSWER = SubTask("Answer the user", None)


def tool(name, **properties):
    schema = {
        "type": "object",
        "properties": {n: {"type": t} for n, t in properties.items()},
        "required": list(properties),
    }
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


TOOLS = [tool("get_weather", city="string"), tool("send_text", to="string", message="string"), tool("add", a="integer")]


class Scripted(Engine):
    """Plans what it is told, and writes the call that a sub-task describes; without a tool, an answer.

    Attributes:
        plan: sub-tasks, or text.
        outputs: of the executor, in place of what sub-tasks describe, while there are any.
        batches: sizes of what was sampled together.
        prompts: of all that was sampled, as text.
        gate: has to be set for anything to be sampled.
        fault: is raised.
    """

    def __init__(self, builder):
        self.builder = builder
        self.plan = (WEATHER, TEXT)
        self.outputs = []
        self.batches = []
        self.prompts = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault = None

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        return self.generate_from_drafts(policy, role, prompts, [()] * len(prompts), sampling, generator)

    def generate_from_drafts(self, policy, role, prompts, drafts, sampling, generator):
        self.gate.wait(30)
        self.batches.append(len(prompts))
        self.prompts += [(role, self.builder.tokenizer.decode(list(prompt))) for prompt in prompts]
        if self.fault is not None:
            raise self.fault
        made = []
        for draft in drafts:
            if role == "planner":
                ids = self.builder.completion(self.plan if isinstance(self.plan, str) else format_plan(self.plan))
            elif self.outputs:
                ids = self.builder.completion(self.outputs.pop(0))
            else:
                ids = list(draft) or self.builder.completion(format_answer("Hello!"))
            cut = torch.tensor(ids[: sampling.max_new_tokens])
            made.append([Completion(cut, torch.zeros(len(cut)), len(ids) <= sampling.max_new_tokens)])
        return made


class Running:
    """A server in a thread.

    Attributes:
        engine: what is scripted.
        service: the chat API.
        port: where it listens.
    """

    def __init__(self, tiny_model, limits, key, inference, rollout, environment, prompts=None):
        pytest.importorskip("starlette", reason="serving needs starlette: pip install 'cahl-pl[serve]'")
        from cahl_pl.serving.app import Limits, Service

        tokenizer = LockedTokenizer(AutoTokenizer.from_pretrained(tiny_model))
        builder = builder_for(tokenizer, prompts or PromptConfig())
        self.engine = Scripted(builder)
        policy = SimpleNamespace(tokenizer=tokenizer, check_length=lambda tokens: None)
        self.shared = SharedEngine(self.engine, policy)
        self.pair = Pair(self.shared, builder, rollout, inference, False, environment, Memory())
        self.service = Service(self.pair, "cahl", limits or Limits(), key)
        uvicorn = pytest.importorskip("uvicorn", reason="serving needs uvicorn: pip install 'cahl-pl[serve]'")
        config = uvicorn.Config(self.service.app(), host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def post(self, body, path="/v1/chat/completions", method="POST", headers=(), timeout=60.0):
        """Status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, text, {"Content-Type": "application/json", **dict(headers)})
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def ask(self, messages, **more):
        """The message of a reply, and why it ends."""
        status, _, body = self.post({"model": "cahl", "messages": messages, "tools": TOOLS, **more})
        assert status == 200, body
        choice = json.loads(body)["choices"][0]
        return choice["message"], choice["finish_reason"]

    def refused(self, body, **how):
        """Status, code and message of a refusal."""
        status, _, content = self.post(body, **how)
        error = json.loads(content)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return status, error["code"], error["message"]

    def stop(self):
        self.engine.gate.set()
        self.server.should_exit = True
        self._thread.join(20)
        self.shared.close()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


def user(text="Get the weather in Gage and send it to Noko."):
    return {"role": "user", "content": text}


def result(message, text, call=0):
    return {"role": "tool", "tool_call_id": message["tool_calls"][call]["id"], "content": text}


def called(message):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())]


@pytest.fixture
def start(tiny_model):
    """Starts servers."""
    running = []

    def make(limits=None, key=None, inference=None, environment=None, prompts=None, **rollout):
        config = RolloutConfig(**rollout)
        running.append(Running(tiny_model, limits, key, inference or InferenceConfig(), config, environment, prompts))
        return running[-1]

    yield make
    for one in running:
        one.stop()


@pytest.fixture
def served(start):
    """A server."""
    return start()

"""Servers that speak vLLM's protocol: the tiny model behind HTTP, with the adapters that it is told to load, or none."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from cahl_pl.engines import Sampling, TransformersEngine


class FakeServer:
    """What it has and what it was asked. `script` holds answers to give instead: (status, body) or seconds to wait."""

    def __init__(self, policy):
        self.policy = policy
        self.adapters = {}
        self.requests = []
        self.script = []
        self.headers = []
        self.without = set()  # parts that an answer to a completion request lacks
        self.raw_logprobs = False  # as vLLM gives them, unless told otherwise: before the temperature
        self._lock = threading.Lock()

    def answer(self, path, body):
        """Status and body of the answer to a request."""
        with self._lock:
            self.requests.append((path, body))
            scripted = self.script.pop(0) if self.script else None
            if isinstance(scripted, float):
                time.sleep(scripted)
            elif scripted is not None:
                return scripted
            if path == "/v1/models":
                return 200, {"data": [{"id": name} for name in ("base", *self.adapters)]}
            if path == "/v1/load_lora_adapter":
                self.adapters[body["lora_name"]] = load_file(Path(body["lora_path"]) / "adapter_model.safetensors")
                return 200, b"Success: it was added."  # not JSON, as in vLLM
            if path == "/v1/unload_lora_adapter":
                return (200, b"gone") if self.adapters.pop(body["lora_name"], None) else (404, {"message": "unknown"})
            if body["model"] not in self.adapters:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            return 200, self._complete(body)

    def _complete(self, body):
        set_peft_model_state_dict(self.policy.lm, self.adapters[body["model"]], adapter_name="planner")
        self.policy.version["planner"] += 1
        self.policy.prefixes.forget()
        sampling = Sampling(body["temperature"], body["top_p"], body["max_tokens"])
        generator = torch.Generator().manual_seed(body["seed"])
        (group,) = TransformersEngine().generate(
            self.policy, "planner", [body["prompt"]], body["n"], sampling, generator
        )
        choices = []
        for index, completion in enumerate(group):
            ids, logprobs = completion.ids.tolist(), completion.logprobs.tolist()
            top = -1.0 if self.raw_logprobs else -1.0 * body["temperature"]
            choice = {
                "index": index,
                "text": self.policy.tokenizer.decode(ids, skip_special_tokens=True),
                "token_ids": ids,
                "logprobs": {"token_logprobs": logprobs, "top_logprobs": [{"x": top - 5, "y": top}]},
                "finish_reason": "stop" if completion.ended else "length",
            }
            choices.append({k: v for k, v in choice.items() if k not in self.without})
        return {"choices": choices}


@pytest.fixture
def fake(make_policy, serve):
    """A running `FakeServer`; its address is `url`."""
    server = FakeServer(make_policy())

    def answer(path, headers, body):
        server.headers.append(headers)
        return server.answer(path, body)

    server.url = serve(answer)
    return server


@pytest.fixture
def waits(monkeypatch):
    """Seconds between tries, in place of waiting."""
    seconds = []
    monkeypatch.setattr("cahl_pl.http_client.time.sleep", seconds.append)
    return seconds


class StubServer:
    """A server without a model: what it answers is a pure function of adapter, prompt and seed, so all of them answer alike.

    Attributes:
        seconds: that an answer takes.
        dies_after: completions after which it gives no answers any more; None: it lives.
        last_words: what it says with the status 500 before that, as vLLM's HTTP server whose engine has died; None: nothing.
        change: makes something else of the choices of an answer.
        reads: whether it can read adapters.
        adapters: name -> what tells one content from another.
        answered: completions.
        at_once: the most that were under way.
        unknown: names that it was asked for and did not have.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.dies_after = None
        self.last_words = None
        self.change = lambda choices: choices
        self.reads = True
        self.adapters = {}
        self.answered = 0
        self.at_once = self._under_way = 0
        self.unknown = []
        self.forgets_to_list = 0
        self.gone = threading.Event()
        self.bodies = []
        self._lock = threading.Lock()

    def answer(self, path, headers, body):
        """Status and body of an answer; raises where there is none."""
        if self._dead:
            if self.last_words is None:
                raise ConnectionAbortedError
            words, self.last_words = self.last_words, None
            return 500, {"error": {"message": words, "type": "InternalServerError", "code": 500}}
        if path == "/v1/models":
            if self.seconds >= 10:
                self.gone.wait(self.seconds)
            if self.forgets_to_list:
                self.forgets_to_list -= 1
                self.adapters["planner-of-somebody"] = None
                return 200, {"data": []}
            return 200, {"data": [{"id": name} for name in self.adapters]}
        if path == "/v1/load_lora_adapter":
            name = body["lora_name"]
            file = Path(body["lora_path"]) / "adapter_model.safetensors"
            if self.adapters.pop("planner-of-somebody", 1) is None:
                self.adapters[name] = hashlib.sha256(file.read_bytes()).hexdigest()
                return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
            if not self.reads or not file.exists():
                return 404, {"error": {"message": f"Loading lora {name} failed: No adapter found for {file.parent}"}}
            self.adapters[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            return 200, b"Success"
        if path == "/v1/unload_lora_adapter":
            self.adapters.pop(body["lora_name"], None)
            return 200, b"gone"
        if body["model"] not in self.adapters:
            self.unknown.append(body["model"])
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        return 200, self._complete(body)

    @property
    def _dead(self):
        return self.dies_after is not None and self.answered >= self.dies_after

    def _complete(self, body):
        with self._lock:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
        time.sleep(self.seconds)
        with self._lock:
            self._under_way -= 1
            if self._dead:
                raise ConnectionAbortedError
            self.answered += 1
            self.bodies.append(body)
        choices = []
        for sample in range(body["n"]):
            words = f"{self.adapters[body['model']]} {body['prompt']} {body['seed']} {sample}"
            numbers = hashlib.sha256(words.encode()).digest()
            ids = [3 + number for number in numbers[: 1 + numbers[-1] % body["max_tokens"]]]
            logprobs = [-number / 64 for number in numbers[: len(ids)]]
            choice = {"token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "length"}
            choices.append(choice)
        return {"choices": self.change(choices)}


@pytest.fixture
def stub(serve):
    """Starts `StubServer`s; their addresses are `url`."""

    def start(seconds=0.0):
        server = StubServer(seconds)
        server.url = serve(server.answer)
        return server

    return start

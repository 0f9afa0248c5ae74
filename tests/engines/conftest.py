"""A server that speaks vLLM's protocol: the tiny model behind HTTP, with the adapters that it is told to load."""

from __future__ import annotations

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

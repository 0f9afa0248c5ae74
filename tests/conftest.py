"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import pytest
import torch
from hypothesis import HealthCheck, settings

from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.policy import Policy
from cahl_pl.startup.library_warnings import EXPECTED_WARNINGS

# The first value that hypothesis draws takes seconds on a busy machine: before it, all our modules are read for constants.
settings.register_profile("cahl_pl", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cahl_pl")


def pytest_configure(config):
    """Warnings are errors, but for those that the command line silences, each for its reason; workers share the cores."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    for message in EXPECTED_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(autouse=True)
def _modules_of_a_test_are_its_own(tmp_path_factory):
    """Forget what a test has imported from its own folder, and the folder: a later one may give another file that name."""
    before, path = set(sys.modules), sys.path.copy()
    yield
    sys.path[:] = path
    folder = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets; tests that need it are skipped where there is none."""
    beside_repository = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CAHL_DATA", beside_repository))
    if not folder.is_dir():
        pytest.skip(f"real data not found: set CAHL_DATA to their folder (there is no {folder})")
    return folder


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random two-layer Qwen2 with a byte tokenizer, on disk: every test that needs a model uses this one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(special + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.2,  # large enough that prompts matter to the output
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen(tmp_path_factory) -> str:
    """A folder with the shape of Qwen2.5-7B-Instruct: nothing but config.json."""
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("qwen")
    Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def family_config():
    """The configuration of a tiny model of a family of `FAMILIES`, by its name."""
    from transformers import CONFIG_MAPPING, __version__

    from tools.quality.random_bases import FAMILIES, config_of

    def make(name: str, **values):
        family = FAMILIES[name]
        if not {family.model_type, family.text_type or family.model_type} <= {*CONFIG_MAPPING}:
            pytest.skip(f"transformers {__version__} has no {family.model_type} models")
        return config_of(replace(family, values=family.values | values))

    return make


@pytest.fixture
def make_policy(tiny_model: Path):
    """Makes policies on the tiny model, their adapters moved away from zero so that they matter."""

    def make(**config) -> Policy:
        policy = Policy(PolicyConfig(**{"model": str(tiny_model), "lora_rank": 4, "lora_alpha": 8, **config}))
        torch.manual_seed(1)
        policy.load()
        with torch.no_grad():
            for name, parameter in policy.lm.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05)
        return policy

    return make


@pytest.fixture
def policy(make_policy) -> Policy:
    """A fresh policy on the tiny model."""
    return make_policy()


SYSTEM = """You can use tools.

**Available Tools**
1. Name: sum
Description: Adds two numbers.
Parameters: {"a": {"description": "First.", "type": "int", "default": ""}, "b": {"type": "int"}}

**Steps for Each Turn**
1. Think
"""
CALL = '<think> t </think>\n<tool_call>\n{"name": "sum", "parameters": {"a": %d, "b": 2}}\n</tool_call>'


@pytest.fixture
def rlla_file(tmp_path) -> Path:
    """Three rows in the format that configs/cahl.yaml trains on."""
    path = tmp_path / "rlla.json"
    dialogue = "**Dialogue Records History**\n<user> What is {} plus 2? </user>\n"
    path.write_text(
        json.dumps([{"instruction": SYSTEM, "input": dialogue.format(n), "output": CALL % n} for n in range(3)])
    )
    return path


@pytest.fixture
def serve():
    """Starts web servers of this machine: `answer(path, headers, body)` gives a status and a JSON value or bytes."""
    running = []

    def start(answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def do_GET(self):
                self._reply(None)

            def _reply(self, body):
                status, reply = answer(self.path, dict(self.headers), body)
                try:
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", reply)
                    self.end_headers()
                    self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())
                except OSError:  # the other side has given up
                    pass

            def log_message(self, *args):
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((http, thread))
        return f"http://127.0.0.1:{http.server_port}"

    yield start
    for http, thread in running:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server(serve):
    """One of them: `replies` are (status, JSON value or bytes, seconds to wait), `requests` what came in."""
    made = SimpleNamespace(requests=[], replies=[])

    def answer(*request):
        made.requests.append(request)
        status, reply, *wait = made.replies.pop(0) if len(made.replies) > 1 else made.replies[0]
        time.sleep(sum(wait))
        return status, reply

    made.url = serve(answer)
    return made


@pytest.fixture
def small(tiny_model, monkeypatch) -> list[str]:
    """Arguments with which quickstart.yaml trains the tiny model for a moment."""
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    return [
        f"--model.policy.model={tiny_model}",
        "--data.tasks_per_round=2",
        "--data.rollout.planner.max_new_tokens=6",
        "--data.rollout.executor.max_new_tokens=6",
        "--data.test.test.init_args.size=2",
        "--data.test.test_unseen_tools.init_args.size=2",
    ]

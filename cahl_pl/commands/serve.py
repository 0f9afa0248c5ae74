r"""Serve a trained pair over OpenAI's chat API: a client sends messages and tools, and gets the next call, or the answer.

    python -m cahl_pl serve -c configs/quickstart.yaml --ckpt_path last
    python -m cahl_pl serve --ckpt_path runs/quickstart/version_0 --port 8000
    python -m cahl_pl serve -c configs/quickstart.yaml --adapters adapters
    python -m cahl_pl serve -c configs/quickstart.yaml --base-url http://127.0.0.1:8001

The pair is a checkpoint, the newest one in a run's folder, the two folders written by `export`, or the adapters loaded on a
vLLM server; by default it is the state before training. The configuration is that of its training: prompts, limits and
`data.inference` apply. A run's folder brings its own. Needs `pip install "cahl-pl[serve]"`; docs/agent.md has clients.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
import torch
import uvicorn
import yaml

from cahl_pl.commands import verb_parser
from cahl_pl.commands.configured import build, policy_of, read_config
from cahl_pl.engines import ServerEngine, TransformersEngine
from cahl_pl.engines.base import Engine
from cahl_pl.environments import McpEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.policy.constraint import compiler_of
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.policy.policy import Policy
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout.calls import builder_for
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.runs.checkpoints import fault_of, newest, read_checkpoint
from cahl_pl.runs.resume import resume_last
from cahl_pl.serving.app import Limits, Service
from cahl_pl.serving.episode import Pair
from cahl_pl.serving.locked import LockedTokenizer
from cahl_pl.serving.memory import Memory
from cahl_pl.serving.shared_engine import SharedEngine
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES

LOCAL = ("127.0.0.1", "localhost", "::1")


def load_pair(args: argparse.Namespace, config: Any) -> Pair:
    """Return the pair that the command line names.

    Args:
        args: arguments of the verb.
        config: the configuration.

    Raises:
        ConfigError: its checkpoint or its server cannot be used.
        PolicyError: it does not fit the configured base.
    """
    policy_config = policy_of(config)
    policy_config.adapters = None if args.adapters is None else str(args.adapters)  # not those that training started from
    policy = Policy(policy_config)
    rollout = build(RolloutConfig, config.data.rollout)
    inference = build(InferenceConfig, config.data.inference)
    prompts = PromptConfig(**config.data.prompts.as_dict())
    engine: Engine
    if args.base_url is not None:
        policy.tokenizer = load_tokenizer(policy.config)
        engine = ServerEngine(
            args.base_url,
            planner=args.planner,
            executor=args.executor,
            timeout_s=args.timeout,
            retries=1,
            api_key_env=args.base_key_env,
        )
    else:
        device = "cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu"
        longest = max(rollout.planner.max_new_tokens, rollout.executor.max_new_tokens) + rollout.max_prompt_tokens
        policy.load(device, longest)
        engine = TransformersEngine()
        if args.ckpt_path is not None:
            _load_checkpoint(policy, Path(args.ckpt_path))
    locked, constrained = LockedTokenizer(policy.tokenizer), bool(inference.constrained or rollout.constrained)
    builder = builder_for(locked, prompts, constrained)
    policy.end_of_turn = builder.end_of_turn
    if constrained and args.base_url is None:
        compiler_of(policy)  # from the unlocked tokenizer; fails before the first request if unavailable
    policy.tokenizer = locked
    if policy.config.adapter == "alora":
        inference.check_invocation(config.data.single_level)
    policy.invocation = {role: builder.invocation(role, config.data.single_level) for role in ROLES}
    shared = SharedEngine(engine, policy, batches=args.base_url is None)
    environment = None if args.mcp is None else McpEnvironment(args.mcp)
    tools = () if environment is None else environment.tools.specs
    return Pair(shared, builder, rollout, inference, config.data.single_level, environment, Memory(), tools)


def _load_checkpoint(policy: Policy, path: Path) -> None:
    if fault := fault_of(path):
        raise ConfigError(f"--ckpt_path names {str(path)!r}, which cannot be read ({fault}): give a whole checkpoint")
    content = read_checkpoint(path)
    policy.check_config(content["policy_config"])
    policy.load_adapter_state(content["state_dict"])
    policy.version.update(content["policy_version"])


class Server(uvicorn.Server):
    """Server that tells its clients when it is being stopped.

    Args:
        service: the chat API.
        config: configuration of uvicorn.
        grace: seconds in which replies in progress must finish.
    """

    def __init__(self, service: Service, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self.service = service
        self.grace = grace

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Accept no more connections; replies not finished after the grace are broken off, with an error for the client."""
        super().handle_exit(sig, frame)
        self.loop.call_soon_threadsafe(self.loop.call_later, self.grace, self.service.close)

    async def startup(self, sockets: Any = None) -> None:
        """Bind, and print the address."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            print(f"serving {self.service.name!r} at http://{host}:{port}/v1", flush=True)


def run(arguments: list[str]) -> None:
    """Parse, load, serve until SIGTERM or SIGINT."""
    args, rest = _parser().parse_known_args(arguments)
    quiet_libraries()
    key = _key(args)
    with tempfile.TemporaryDirectory() as aside:
        config = read_config(_with_checkpoint(args, rest, Path(aside)))
    if args.ckpt_path == "last":
        resume_last(config, training=False)
        args.ckpt_path = config.ckpt_path
    limits = Limits(args.max_body_mib * 2**20, args.max_tokens, args.at_once, args.queue, args.timeout)
    began = time.perf_counter()
    pair = load_pair(args, config)
    service = Service(pair, args.name, limits, key)
    print(f"pair       {_told(args)}, loaded in {time.perf_counter() - began:.1f} s", flush=True)
    settings = uvicorn.Config(
        service.app(),
        host=args.host,
        port=args.port,
        log_level="warning",
        lifespan="off",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(args.grace + 5),
        server_header=False,
    )
    try:
        Server(service, settings, args.grace).run()
    finally:
        pair.engine.close()


def _with_checkpoint(args: argparse.Namespace, rest: list[str], aside: Path) -> list[str]:
    """Return the words of the configuration; a run's folder means its newest checkpoint and its configuration."""
    if sum(value is not None for value in (args.ckpt_path, args.adapters, args.base_url)) > 1:
        raise ConfigError("give one of --ckpt_path, --adapters and --base-url: there is one pair to be served")
    if args.ckpt_path is None or args.ckpt_path == "last":
        return rest
    path = Path(args.ckpt_path)
    folder = path if path.is_dir() else path.parent.parent
    if path.is_dir():
        found = newest(path)
        if found is None:
            raise ConfigError(f"--ckpt_path names the folder {str(path)!r}, in which there is no whole checkpoint")
        args.ckpt_path = str(found)
    elif not path.exists():
        raise ConfigError(f"--ckpt_path names {str(path)!r}, which does not exist: give a checkpoint, a run, or `last`")
    names = any(word in ("-c", "--config") or word.startswith(("-c", "--config=")) for word in rest)
    if names or not (folder / "config.yaml").is_file():
        return rest
    (aside / "config.yaml").write_text(_settings(folder / "config.yaml"), encoding="utf-8")
    return ["-c", str(aside / "config.yaml"), *rest]


def _settings(path: Path) -> str:
    """Return the configuration that a run has written, without the keys that only the verbs of runs take.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return yaml.safe_dump(
            {key: value for key, value in content.items() if key not in ("ckpt_path", "weights_only")}
        )
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"the run's configuration {path} cannot be read ({error}): give it with -c") from None


def _told(args: argparse.Namespace) -> str:
    if args.base_url is not None:
        return f"{args.planner} and {args.executor} of {', '.join(args.base_url)}"
    return args.ckpt_path or args.adapters or "fresh adapters, as training starts from"


def _key(args: argparse.Namespace) -> str | None:
    """Return the key that clients must give.

    Raises:
        ConfigError: its variable is not set, or there is none and the server can be reached from other machines.
    """
    if args.api_key_env is not None:
        key = os.environ.get(args.api_key_env, "").strip()
        if not key:
            raise ConfigError(f"the environment variable {args.api_key_env}, which is to hold the key, is not set")
        return key
    if args.host not in LOCAL:
        raise ConfigError(
            f"--host {args.host} lets others than this machine ask: give --api-key-env the variable with a key for them"
        )
    return None


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("serve", __doc__, takes_configuration=True)
    parser.add_argument(
        "--ckpt_path", metavar="PATH", help="a checkpoint, a run's folder, or `last`: the newest of the newest run"
    )
    parser.add_argument("--adapters", metavar="FOLDER", type=Path, help="folder that `export` has written")
    parser.add_argument(
        "--base-url", metavar="URL", nargs="+", help="address of a vLLM server that has the adapters, or of several"
    )
    parser.add_argument("--planner", metavar="NAME", default="planner", help="name of the planner's adapter there")
    parser.add_argument("--executor", metavar="NAME", default="executor", help="name of the executor's")
    parser.add_argument("--base-key-env", metavar="NAME", help="environment variable with that server's key")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", metavar="N", type=_port, default=8000, help="port to listen at; 0: any that is free")
    parser.add_argument("--name", metavar="NAME", default="cahl", help="name of the model")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key that clients have to give"
    )
    parser.add_argument("--mcp", metavar="FILE", help="carry out the calls here, by the MCP servers that a file names")
    parser.add_argument("--timeout", metavar="S", type=_positive(float), default=120.0, help="seconds for a reply")
    parser.add_argument(
        "--max-tokens", metavar="N", type=_positive(int), default=4096, help="tokens sampled for a reply, at most"
    )
    parser.add_argument(
        "--max-body-mib", metavar="N", type=_positive(int), default=4, help="size of a request in MiB, at most"
    )
    parser.add_argument("--at-once", metavar="N", type=_positive(int), default=16, help="replies that are made at once")
    parser.add_argument(
        "--queue", metavar="N", type=_from_zero(int), default=64, help="replies that may wait beside these"
    )
    parser.add_argument(
        "--grace",
        metavar="S",
        type=_from_zero(float),
        default=10.0,
        help="seconds that replies have to end after SIGTERM",
    )
    return parser


def _positive(kind: type) -> Any:
    return _number(kind, lambda value: bool(value > 0), "above 0")


def _from_zero(kind: type) -> Any:
    return _number(kind, lambda value: bool(value >= 0), "at least 0")


def _number(kind: type, is_good: Callable[[Any], bool], told: str) -> Any:
    def read(text: str) -> Any:
        value = kind(text)
        if not is_good(value):
            raise argparse.ArgumentTypeError(f"must be {told}, not {text}")
        return value

    read.__name__ = kind.__name__  # argparse names it when the text is no number at all
    return read


_port = _number(int, lambda value: 0 <= value <= 65535, "at most 65535")

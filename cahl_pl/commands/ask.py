r"""Run requests, or the test sets of a configuration, against a server that has both adapters; no weights are loaded here.

    python -m cahl_pl ask --base-url http://127.0.0.1:8000 -c configs/quickstart.yaml
    python -m cahl_pl ask --base-url http://127.0.0.1:8000 -c configs/quickstart.yaml \
        --requests requests.jsonl --tools my_tools.py

The configuration is the one that the adapters were trained with: its prompts, limits and `data.inference` apply, and any key
of it can be given too. `--requests` and `--tools` are those of `cahl_pl.datasets.Requests`. docs/serving.md says how to start
the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
from lightning.pytorch import Trainer

from cahl_pl.callbacks import PredictionWriter
from cahl_pl.cli import main
from cahl_pl.commands import verb_parser
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets import Requests
from cahl_pl.engines import ServerEngine
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.startup.library_warnings import quiet_libraries


class WithoutWeights(CAHLModule):
    """Module for prediction whose policy consists of a tokenizer only."""

    def configure_model(self) -> None:
        """Load the tokenizer."""
        self.policy.tokenizer = load_tokenizer(self.policy.config)


def ask(data: RolloutDataModule, policy: PolicyConfig, engine: ServerEngine, out: Path) -> None:
    """Predict with a server, print and write the episodes, and print the success rate of those with known calls.

    Args:
        data: holds the tests or the requests.
        policy: names the tokenizer.
        engine: the server.
        out: file to write.

    Raises:
        ConfigError: the server cannot be used.
        PolicyError: there is no such tokenizer.
    """
    data.rollout.engine = engine
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[PredictionWriter(str(out))]
    )
    module = WithoutWeights(policy)
    batches: Any = trainer.predict(module, data)
    sets = batches if batches and isinstance(batches[0][0], list) else [batches]
    names = ["requests"] if data.requests is not None else list(data.test_tasks)
    for name, episodes in zip(names, sets, strict=True):
        known = [e["success"] for batch in episodes for e in batch if e["success"] is not None]
        if known:
            print(f"{name}: {sum(known)} of {len(known)} succeeded ({100 * sum(known) / len(known):.1f} %)")


def run(arguments: list[str]) -> None:
    """Parse, build, ask."""
    parser = verb_parser("ask", __doc__, takes_configuration=True)
    parser.add_argument(
        "--base-url", required=True, nargs="+", help="address of the server, or of several that are alike"
    )
    parser.add_argument("--tokenizer", help="hub id or folder of the tokenizer; default: model.policy.model")
    parser.add_argument("--requests", help="a .jsonl or .json file, or the text of one request; default: the test sets")
    parser.add_argument("--tools", help="a Python file of functions, or a .json file of tools")
    parser.add_argument("--planner", default="planner", help="name of the planner's adapter on the server")
    parser.add_argument("--executor", default="executor", help="name of the executor's")
    parser.add_argument("--api-key-env", help="environment variable with the server's key")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one try of a request")
    parser.add_argument("--retries", type=int, default=3, help="further tries")
    parser.add_argument("--out", type=Path, default=Path("predictions.jsonl"), help="file to write")
    args, config = parser.parse_known_args(arguments)
    quiet_libraries()
    engine = ServerEngine(
        args.base_url,
        planner=args.planner,
        executor=args.executor,
        timeout_s=args.timeout,
        retries=args.retries,
        api_key_env=args.api_key_env,
    )
    cli = main(config, run=False)
    policy, data = cli.model.policy.config, cli.datamodule
    if args.tokenizer is not None:
        policy.model, policy.gguf_file = args.tokenizer, None
    if args.requests is not None:
        data.requests = Requests(args.requests, args.tools)
    ask(data, policy, engine, args.out)

"""A round whose tokens are stored, so that training on them is the same curve on every machine.

`curve.json` holds the tokens that the shipped model has sampled in a round, and loss and gradient norm of the steps taken
on them. Everything but the drawing of tokens is done anew: prompts, calls, rewards, credit, advantages, loss, gradients,
optimisers. After a change that is meant to move the curve (other prompts, other rewards), write it again, and read the
difference:

    OMP_NUM_THREADS=1 python -m tests.stored.rounds
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import torch

from cahl_pl.cli import main
from cahl_pl.engines import Engine, TransformersEngine
from cahl_pl.engines.base import Completion
from cahl_pl.startup.library_warnings import quiet_libraries

STORED = Path(__file__).with_name("curve.json")
TAGS = ("loss", "grad_norm", "entropy", "reward/mean")
# two updates of both roles: the second one is off-policy
ARGUMENTS = (
    "--trainer.callbacks=[]",
    "--data.test=null",
    "--data.tasks_per_round=3",
    "--data.updates_per_round=2",
    "--trainer.max_steps=4",
)


def key_of(prompt, role) -> str:
    return f"{role} {hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:16]}"


class StoredEngine(Engine):
    """Gives the completions that are stored for a prompt; of equal prompts each has its own, in their order."""

    def __init__(self) -> None:
        self.completions = json.loads(STORED.read_text(encoding="utf-8"))["completions"]

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        met: Counter[str] = Counter()
        found = []
        for prompt in prompts:
            key = key_of(prompt, role)
            assert key in self.completions, f"no stored completion for the {role}'s prompt: see {__name__}"
            group = self.completions[key][met[key]]
            met[key] += 1
            assert len(group) == num_samples
            found.append([Completion(torch.tensor(c[0]), torch.tensor(c[1]), c[2]) for c in group])
        return found


class RecordingEngine(TransformersEngine):
    """Samples, and keeps what was sampled, log-probabilities to five digits; the generator is spared, as when replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.completions: dict[str, list] = {}
        self.own = torch.Generator().manual_seed(0)

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        groups = super().generate(policy, role, prompts, num_samples, sampling, self.own)
        for prompt, group in zip(prompts, groups, strict=True):
            stored = [[c.ids.tolist(), [round(x, 5) for x in c.logprobs.tolist()], c.ended] for c in group]
            self.completions.setdefault(key_of(prompt, role), []).append(stored)
        return groups


def run(folder: Path, *arguments: str):
    """Train the shipped model by the command line; curves are in `folder`/run/version_0."""
    places = {"save_dir": str(folder), "name": "run", "version": 0}
    logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": places})
    return main(["fit", "-c", "quickstart", f"--trainer.logger={logger}", *arguments])


def curve_of(folder: Path) -> dict[str, float]:
    """`step role/tag` -> value, of what `run` has logged."""
    with (folder / "run" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tags = [f"{role}/{tag}" for role in ("planner", "executor") for tag in TAGS]
    return {f"{row['step']} {tag}": float(row[tag]) for row in rows for tag in tags if row.get(tag)}


if __name__ == "__main__":
    quiet_libraries()
    with tempfile.TemporaryDirectory() as place:
        recorded = run(Path(place), *ARGUMENTS, "--data.engine=tests.stored.rounds.RecordingEngine")
        curve = curve_of(Path(place))
    completions = recorded.datamodule.rollout.engine.completions
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(groups)}" for key, groups in sorted(completions.items()))
    STORED.write_text(
        f'{{"curve": {json.dumps(curve, indent=1)},\n"completions": {{\n{lines}\n}}}}\n', encoding="utf-8"
    )
    print(f"written: {STORED}, {len(curve)} values of {len(completions)} prompts")

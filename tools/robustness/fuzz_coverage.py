r"""Coverage-guided fuzzing of code that reads model output: parsing, schema check, rewards. Needs atheris, not a dependency.

    pip install atheris
    python -m tools.robustness.fuzz_coverage --out runs/fuzz --seconds 600 \
        --outputs runs/quickstart/version_0/trajectories.jsonl

Inputs that reach new code are kept and mutated further. They start from the gold plans and calls of ToolWorld and from the
outputs of a model, if a run's `trajectories.jsonl` is given; the tags and JSON's keywords are the dictionary. The first
byte of an input chooses the task, the rest is the output, scored as in `fuzz_outputs`: by every reward, in its range. An
input that raises is written to OUT/crash-..., and the exit status is not 0; the same command with that file instead of the
options repeats it alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import atheris

from cahl_pl.commands.pipes import reader_may_leave

with atheris.instrument_imports(include=["cahl_pl"]):
    from cahl_pl.toolworld import ToolWorld
    from tools.robustness.fuzz_outputs import PIECES, TASKS, Scorer, gold_texts


def seeds(trajectories: Path | None) -> Iterator[bytes]:
    """Yield inputs to start from: gold texts of each task, and a model's plans and outputs."""
    world = ToolWorld(size=TASKS)
    for number in range(TASKS):
        for text in gold_texts(world[number]):
            yield bytes([number]) + text.encode()
    if trajectories is not None:
        for line in trajectories.read_text(encoding="utf-8").splitlines():
            episode = json.loads(line)
            for text in (episode["plan"], *(step["output"] for step in episode["steps"])):
                yield bytes([len(text) % TASKS]) + text.encode()


def words() -> Iterator[str]:
    """Yield the dictionary, in libFuzzer's notation."""
    for piece in PIECES:
        data = piece.encode("utf-8", "surrogatepass")
        if len(data) < 64:
            yield '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


class Target:
    """Scorer of one input at a time, which raises an error for any fault."""

    def __init__(self) -> None:
        world = ToolWorld(size=TASKS)
        self.tasks = [world[number] for number in range(TASKS)]
        self.scorer = Scorer()

    def __call__(self, data: bytes) -> None:
        """Score an input; skip an empty one."""
        if not data:
            return
        try:
            text = data[1:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            text = data[1:].decode("utf-8", "replace")
        self.scorer(text, self.tasks[data[0] % TASKS], with_outcome=data[0] >= 128)


@reader_may_leave()
def main() -> None:
    """Fuzz; libFuzzer ends the process."""
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_file():
        Target()(Path(sys.argv[1]).read_bytes())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the inputs that were kept, and of failures")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--outputs", type=Path, help="trajectories.jsonl of a run")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer, for which 0 means any")
    options = parser.parse_args()
    corpus = options.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(options.outputs):
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    (options.out / "words").write_text("\n".join(words()) + "\n")
    flags = {
        "max_total_time": options.seconds,
        "seed": options.seed,
        "max_len": 4096,
        "dict": options.out / "words",
        "artifact_prefix": f"{options.out}/",
        "print_final_stats": 1,
    }
    _fuzz([sys.argv[0], str(corpus), *(f"-{name}={value}" for name, value in flags.items())])


def _fuzz(arguments: Sequence[str]) -> None:
    atheris.Setup(list(arguments), Target())
    atheris.Fuzz()


if __name__ == "__main__":
    main()

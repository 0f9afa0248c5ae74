"""Verbs fit, validate, test and predict: Lightning's command line, with help that fits a screen."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from cahl_pl.commands import VERBS, notice_of_loading
from cahl_pl.commands.pipes import output_may_be_lost
from cahl_pl.config_files import find_configs_in
from cahl_pl.runs.files import check_checkpoint

HELP = """\
usage: cahl-pl {verb} -c CONFIG [-c CONFIG...] [--KEY VALUE...]

{what}.

  -c, --config CONFIG                        a YAML file, or the name of one that ships with the package, such as
                                             quickstart or recipes/toolrl; the later one wins, and keys win over all
{keys}
Every key of the YAML is an option too. All of them:

  --help-all                                 every key with its type, default and meaning
  --data.train.help CLASS                    the keys of a class that is chosen by its path
  -c CONFIG --print_config                   the configuration as it would run
  docs/configuration.md                      all keys of this package as a page
"""

CHECKPOINT = "a checkpoint that a run has written, or `last`"
MODEL = (
    ("model.policy.model MODEL", "the base: a hub id or a folder"),
    ("model.policy.quantization nf4|none", "how its weights are held"),
)
RUN = (
    ("trainer.accelerator cpu|gpu|auto", "where it runs"),
    ("trainer.devices N", "how many devices"),
    ("trainer.logger CLASS", "where it writes: --trainer.logger.init_args.save_dir FOLDER"),
)
KEYS = {
    "fit": (
        ("trainer.max_steps N", "optimiser steps"),
        *RUN,
        ("ckpt_path PATH", f"go on from {CHECKPOINT}"),
        ("seed_everything N", "the seed of everything"),
        *MODEL,
        ("model.planner.lr, model.executor.lr", "learning rates of the roles"),
        ("model.max_tokens_per_micro_batch N", "tokens of a micro-batch: fewer need less memory"),
        ("data.train CLASS", "the tasks: cahl_pl.datasets.JsonlDataset, with --data.train.path FILE"),
        ("data.tasks_per_round N", "tasks sampled between two updates"),
        ("data.rollout.planner_group_size N", "plans sampled for a request"),
        ("data.rollout.executor_group_size N", "outputs sampled for a step of a plan"),
    ),
    "validate": (("ckpt_path PATH", CHECKPOINT), *RUN, *MODEL, ("data.validation.NAME CLASS", "the sets to measure")),
    "test": (
        ("ckpt_path PATH", CHECKPOINT),
        *RUN,
        *MODEL,
        ("data.results FOLDER", "where the reports of benchmarks are written"),
        ("data.inference.replans N", "further plans where an execution failed"),
    ),
    "predict": (
        ("ckpt_path PATH", CHECKPOINT),
        *RUN,
        *MODEL,
        ("data.requests CLASS", "cahl_pl.datasets.Requests, with --data.requests.source FILE_OR_TEXT"),
        ("trainer.callbacks+=CLASS", "cahl_pl.callbacks.PredictionWriter writes predictions.jsonl"),
    ),
}


def run(verb: str, arguments: list[str]) -> None:
    """Print the short help, or run Lightning's command line."""
    if "--help" in arguments or "-h" in arguments:
        keys = "".join(f"  --{key:40} {meaning}\n" for key, meaning in KEYS[verb])
        print(HELP.format(verb=verb, what=VERBS[verb][1].capitalize(), keys=keys), end="")
        return
    _refuse_early(arguments)
    with notice_of_loading():
        from cahl_pl.cli import main
        from cahl_pl.startup.library_warnings import quiet_libraries

    quiet_libraries()
    with output_may_be_lost() if verb == "fit" else nullcontext():  # the others' output is their result
        main([verb, *("--help" if word == "--help-all" else word for word in arguments)])


def _refuse_early(arguments: list[str]) -> None:
    """Refuse missing files before the libraries are loaded, which takes seconds, on a busy machine minutes.

    Raises:
        ConfigError: a configuration is neither a file nor shipped, or a checkpoint does not exist.
    """
    find_configs_in(arguments)
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, _, given = word.partition("=")
        given = given if "=" in word else following
        if option == "--ckpt_path" and given not in ("last", "null", ""):
            check_checkpoint(given)


fit, validate, test, predict = (partial(run, verb) for verb in ("fit", "validate", "test", "predict"))

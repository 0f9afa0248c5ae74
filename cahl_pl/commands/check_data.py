"""Check a file of tasks (docs/your-data.md): which rows would be accepted, and which not, and why.

    python -m cahl_pl check-data FILE.jsonl
    python -m cahl_pl check-data FILE.jsonl -c my_run.yaml

With a configuration the tasks are also checked against it: prompts that are too long, more gold calls than steps, tools that
the environment lacks, gold calls that fail when the environment carries them out, and references to values that it does not
return (--no-run skips these). Stored results that differ from the tools' answers are reported, but are not faults: some vary,
such as the time of day. No weights are loaded.

Exits with 1 if a row would be dropped, or a task does not fit the configuration, and with 2 if the file cannot be read.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from cahl_pl.commands import verb_parser
from cahl_pl.datasets import DataError, JsonlDataset
from cahl_pl.datasets.fitness import MANY, Fault, check_tasks
from cahl_pl.datasets.report import LoadReport, NoTasks
from cahl_pl.environments import PythonToolsEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.python_tools.loading import split_class


def main(arguments: list[str] | None = None) -> int:
    """Print the report of the file."""
    parser = verb_parser("check-data", __doc__, takes_configuration=True)
    parser.add_argument("file", metavar="FILE.jsonl")
    parser.add_argument(
        "--tools", metavar="MODULE", help="a Python file or module, for rows without tools of their own"
    )
    parser.add_argument(
        "--on-contradiction",
        choices=["relax", "drop"],
        default="relax",
        help="relax the schema of a row whose gold breaks its types, or drop the row",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--no-run", action="store_true", help="with a configuration: do not carry out the gold calls")
    given = list(sys.argv[2:] if arguments is None else arguments)
    if given and given[0].startswith(("-c", "--config")):
        raise ConfigError(f"FILE.jsonl comes first, before {given[0]}")
    args, rest = parser.parse_known_args(given)
    if args.file.endswith((".yaml", ".yml")):
        raise ConfigError(f"{args.file} is no file of rows: check-data FILE.jsonl -c CONFIG")
    if args.file.startswith("-"):
        raise ConfigError(f"FILE.jsonl comes first, before {args.file}")
    try:
        config = _config(rest) if rest else None
        tools = args.tools
        if tools is None and config is not None:
            tools = (config.data.train.get("init_args") or {}).get("tools")
        data = JsonlDataset(args.file, args.on_contradiction, tools=tools)
        if config is not None:
            total, faults = _hold(data, config, not args.no_run, tools)
        else:
            total, faults = _make_instances(data, tools)
    except NoTasks as error:
        if not error.report.counts[2]:
            raise
        _print(error.report, [], 0, args.json)
        return 1
    except (DataError, ConfigError) as error:
        if not args.json:
            raise
        print(json.dumps({"path": args.file, "error": str(error)}))
        return 2
    _print(data.report, faults, total, args.json)
    return 1 if data.report.counts[2] or any(not fault.may_be_right for fault in faults) else 0


def _config(words: list[str]) -> Any:
    from cahl_pl.commands.configured import read_config  # here: the imports take seconds
    from cahl_pl.startup.library_warnings import quiet_libraries

    quiet_libraries()
    return read_config(words)


def _make_instances(data: JsonlDataset, tools: str | None) -> tuple[int, list[Fault]]:
    """Return which tasks have a state that their tools' class does not accept; nothing if the tools are functions."""
    if tools is None or tools.endswith(".json") or split_class(tools)[1] is None:
        return 0, []
    tasks = (data[index] for index in range(len(data)))
    return check_tasks(tasks, lambda task: 0, MANY, MANY, PythonToolsEnvironment(tools), run_gold=False)


def _hold(data: JsonlDataset, config: Any, run_gold: bool, tools: str | None) -> tuple[int, list[Fault]]:
    """Return the faults of the tasks under a configuration."""
    from cahl_pl.commands.configured import build, policy_of, prompts_of
    from cahl_pl.environments.base import Environment
    from cahl_pl.policy.loading import load_tokenizer
    from cahl_pl.rollout.calls import builder_for

    builder = builder_for(load_tokenizer(policy_of(config)), prompts_of(config))
    render = builder.single if config.data.single_level else builder.planner
    rollout = config.data.rollout
    environment = build(Environment, config.data.environment)  # type: ignore[type-abstract]
    tasks = (data[index] for index in range(len(data)))
    limits = rollout.max_prompt_tokens, rollout.max_steps
    return check_tasks(tasks, lambda task: len(render(task)), *limits, environment, run_gold, tools)


def _print(report: LoadReport, faults: list[Fault], total: int, as_json: bool) -> None:
    if not as_json:
        print(report)
        for fault in faults:
            print("\n".join(fault.lines(total)))
        return
    kept, relaxed, dropped = report.counts
    named = {
        kind: [{"id": name, "reason": reason} for name, reason in rows]
        for kind, rows in (("relaxed_rows", report.relaxed), ("dropped_rows", report.dropped))
    }
    found: dict[str, list[Any]] = {"faults": [], "notes": []}
    for f in faults:
        said = {"what": f.what, "number": f.number, "advice": f.advice, "examples": f.examples}
        found["notes" if f.may_be_right else "faults"].append(said)
    counts = {"kept": kept, "relaxed": relaxed, "dropped": dropped, "last_turn_only": report.shortened.total()}
    print(json.dumps({"path": report.path, **counts, **named, **found}))

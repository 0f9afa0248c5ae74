"""Wrong commands, configurations and tool modules, one mistake each, and the message that the command should print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from tools.quality.mistakes_in_rows import FUNCTION, row


class Mistake(NamedTuple):
    """Wrong command.

    Attributes:
        name: name of the mistake.
        words: the command, run in a folder with the files.
        said: part of the expected message.
        files: name -> content.
        status: expected exit status.
    """

    name: str
    words: str
    said: str
    files: Mapping[str, str | bytes] = {}
    status: int = 2


GOOD: Final = {"rows.jsonl": row()}
TOOLLESS: Final = {"rows.jsonl": row(tools=...)}
CHECK: Final = "check-data rows.jsonl --tools my_tools.py"
PING: Final = 'def ping(host: str) -> str:\n    """Ping a host."""\n    return host\n'
NESTFUL: Final = json.dumps({"input": "q", "output": [{"name": "f", "label": "$var1", "arguments": {}}]})
FIT: Final = "fit -c quickstart --trainer.max_steps 2 --trainer.logger.init_args.save_dir runs"


def tools(text: str | bytes) -> dict[str, str | bytes]:
    """Return rows without tools, and a tool module."""
    return {"rows.jsonl": row(tools=...), "my_tools.py": text}


M = Mistake
COMMANDS: Final = (
    M(
        "a file that is not there",
        "check-data rows.jsonl",
        "there is no such file; download the data set or correct the",
    ),
    M("a folder", "check-data .", "this is a folder; give a file in it"),
    M("a configuration as FILE", "check-data my.yaml", "is no file of rows: check-data FILE.jsonl -c CONFIG"),
    M("options first", "check-data -c quickstart", "FILE.jsonl comes first, before -c"),
    M("no such verb", "chek-data rows.jsonl", "there is no verb 'chek-data'; did you mean check-data?"),
    M("no such format", "convert-data xlamm rows.jsonl out.jsonl", "'xlamm'"),
    M("no format fits", "convert-data xlam rows.jsonl out.jsonl", "the field 'query' is missing", GOOD),
    M("OUTPUT is INPUT", "convert-data jsonl rows.jsonl rows.jsonl", "would destroy", GOOD),
    M(
        "NESTFUL without its tools",
        "convert-data nestful n.jsonl o.jsonl",
        "--tools executable-spec",
        {"n.jsonl": NESTFUL},
    ),
    M(
        "Seal-Tools without its tools",
        "convert-data seal-tools rows.jsonl o.jsonl",
        "needs files that declare its",
        GOOD,
    ),
    M(
        "tools where none are needed",
        "convert-data xlam rows.jsonl o.jsonl --tools rows.jsonl",
        "leave the files",
        GOOD,
    ),
    M("no configuration", "fit", "give a configuration with -c"),
    M("no such configuration", "fit -c quickstrat", "did you mean quickstart?"),
    M("a configuration in UTF-16", "fit -c my.yaml", "the file is UTF-16", {"my.yaml": "a: 1".encode("utf-16")}),
)
MODULES: Final = (
    M("no such module", CHECK, "there is no file 'my_tools.py' of Python tools; correct the path", TOOLLESS),
    M("a missing package", CHECK, "line 1: the package 'qwertz' is not installed; pip install", tools("import qwertz")),
    M("a module in UTF-16", CHECK, "the file is UTF-16, not UTF-8", tools(PING.encode("utf-16"))),
    M("a part of a package", CHECK, "it is a part of a package", tools("from . import x\n" + PING)),
    M("no Python", CHECK, "cannot be imported", tools("def f(:")),
    M("no docstring", CHECK, "defines no public function with a docstring", tools("def f(x: int):\n    return x\n")),
    M("no type hints", CHECK, "'x' has no type hint; write one, such as `str`", tools('def f(x):\n    "F."\n')),
    M("a class, not named", CHECK, "my_tools.py:A", tools('class A:\n    def f(self):\n        "F."\n')),
    M(
        "a tool by a name that is none",
        CHECK,
        "no function is named 'pong'; did you mean 'ping'?",
        {"rows.jsonl": row(tools=["pong"]), "my_tools.py": PING},
        status=1,
    ),
    M(
        "servers in UTF-16",
        "check-data rows.jsonl --tools s.json",
        "the file is UTF-16",
        {**TOOLLESS, "s.json": b"\xff\xfe{\0"},
    ),
    M(
        "tools as servers",
        "check-data rows.jsonl --tools s.json",
        "MCP servers",
        {**TOOLLESS, "s.json": json.dumps([FUNCTION])},
    ),
)
SHOP: Final = 'class Shop:\n    def __init__(self, name):\n        pass\n    def f(self):\n        "F."\n'
PLAN: Final = 'import abc\nclass Plan(abc.ABC):\n    @abc.abstractmethod\n    def f(self):\n        "F."\n'
SHOPS: Final = {"rows.jsonl": row(tools=..., gold=[]), "shop.py": SHOP + PLAN}
CLASSES: Final = (
    *(
        M(
            f"{name} as a class",
            f"check-data rows.jsonl --tools {name}",
            "write shop.py:Shop, the file or module, one",
            SHOPS,
        )
        for name in ("shop.py::Shop", "shop.py:", "shop.py:Shop:f", "shop.py:Shop.f", "shop.py:Shop()")
    ),
    M(
        "a class after a dot",
        "check-data rows.jsonl --tools shop.Shop",
        "a class comes after a colon: shop:Shop",
        SHOPS,
    ),
    M("an abstract class", "check-data rows.jsonl --tools shop.py:Plan", "is abstract (without f)", SHOPS),
    M(
        "a constructor that needs more",
        "check-data rows.jsonl --tools shop.py:Shop",
        "Shop(**state) needs name, which the row's `state` does not have",
        SHOPS,
        1,
    ),
    M(
        "a module that exits",
        CHECK,
        "(line 2: it exits when it is imported); correct",
        tools("import sys\nsys.exit()\n"),
    ),
    M("a module that interrupts", CHECK, "(line 1: it was interrupted while", tools("raise KeyboardInterrupt\n")),
)
KEYS: Final = (
    M(
        "a key that is none",
        f"{FIT} --model.policy.activated_lora true",
        "no configuration key model.policy.activated_lora",
    ),
    M(
        "a key that is none, in a file",
        f"{FIT} -c my.yaml",
        "my.yaml, line 3: there is no configuration key data.rollout.planer_group_size; did you mean ",
        {"my.yaml": "data:\n  rollout:\n    planer_group_size: 3\n"},
    ),
    M(
        "an option that a class has not",
        f"{FIT} --data.train.init_args.splitt test",
        "did you mean split? --data.train.help",
    ),
    M("a text for a number", f"{FIT} --data.rollout.planner.max_thinking_tokens x", "expected int or null but got x"),
    M(
        "a thought longer than the output",
        f"{FIT} --data.rollout.executor.max_thinking_tokens 900",
        "data.rollout.executor: sampling needs max_thinking_tokens of at least 1 and below",
    ),
    M(
        "a template that does not compile",
        "show-prompt -c quickstart --data.prompts.chat_template my.jinja",
        "the chat template in the file 'my.jinja' cannot be used (line 2: ",
        {"my.jinja": "a\n{% for m in messages %}"},
    ),
    M(
        "an argument that the template has not",
        "show-prompt -c quickstart --data.prompts.template_arguments {'thinkng':1} --data.prompts.chat_template my.jinja",
        "which the chat template in the file 'my.jinja' never reads: did you mean 'thinking'?",
        {"my.jinja": "{{ thinking }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"},
    ),
    M(
        "an export over other files",
        "export --out mine -c quickstart --ckpt_path x.ckpt",
        "--out names 'mine', which is a file: give a folder",
        {"mine": "x"},
    ),
)
RUNS: Final = (
    M("a split that is none", f"{FIT} --data.train.init_args.split nope", "nope"),
    M(
        "loss and length",
        f"{FIT} --model.grpo.loss dr_grpo --model.grpo.max_completion_length -1",
        "max_completion_length",
    ),
    M("NaN for kl", f"{FIT} --model.grpo.kl nan", "kl"),
    M("gradient_clip_val", f"{FIT} --trainer.gradient_clip_val 1", "gradient_clip_val"),
    M("accumulate_grad_batches", f"{FIT} --trainer.accumulate_grad_batches 2", "accumulate_grad_batches"),
    M("log_every_n_steps 0", f"{FIT} --trainer.log_every_n_steps 0", "log_every_n_steps"),
)

MISTAKES: Final = (*COMMANDS, *MODULES, *CLASSES, *KEYS, *RUNS)

"""Check chat templates of real models by making prompts with them: one line of facts for each, and its faults.

    python -m tools.quality.check_templates FOLDER

FOLDER contains `*.jinja` files and `tokenizer_config.json` files, in separate folders if necessary. Tokenizers are made of
bytes and the special tokens that a template names, or that its `tokenizer_config.json` has. The exit status is 1 if something
is wrong. With `--native`, prints a call of each template that mentions tools, as it writes it, or why
`data.prompts.tool_format: native` refuses the template.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait
from cahl_pl.commands.pipes import reader_may_leave
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_call, parse_action
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.rollout.calls import builder_for, call_ids
from cahl_pl.types import Message, SubTask, Task, ToolCall, ToolSpec

# isort: split
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_SPECIAL = re.compile(
    r"<\|[^<>|\s'\"{}+]{1,40}\|>|<\uff5c[^<>'\"]{1,40}\uff5c>|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>|\[/?[A-Z_]{3,25}\]|\[gMASK\]"
    r"|\[\|[a-z]{1,20}\|\]|<SPECIAL_\d+>|<seed:[a-z]{1,20}>|\]~!?b[\[\]]|\[e~\["
    r"|</?s>|<(?:bos|eos|sop|(?:start|end)_of_turn|(?:BOS|EOS)_TOKEN)>"
)
_ENDS = (
    "<|END_OF_TURN_TOKEN|>",
    "[|endofturn|]",
    "[e~[",
    "<SPECIAL_12>",
    "<seed:eos>",
)  # the first of these in a template is its end of sequence, unless its `tokenizer_config.json` names one
_PLAIN = ("<think>", "</think>", "<mm:think>", "</mm:think>", "<tool_call>", "</tool_call>")
_TOOL = ToolSpec("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})
_TASK = Task("t", (Message("user", "FIRST"), Message("assistant", "REPLY"), Message("user", "SECOND")), (_TOOL,))
_CALL = format_call(ToolCall("add", {"a": 2}))
_WORDS: dict[str, Any] = {"tool_format": "compact", "system": "TOOLS", "planner": "WORDS", "executor": "DO {subtask}"}


def tokenizer_of(template: str, config: dict[str, Any] | None = None) -> Any:
    """Return a tokenizer of bytes with the special tokens of a `tokenizer_config.json`, or with those that a template names."""
    tokens = (config or {}).get("added_tokens_decoder", {}).values()
    special = [token["content"] for token in tokens if token["special"]] or sorted(set(_SPECIAL.findall(template)))
    plain = [token["content"] for token in tokens if not token["special"]] or [t for t in _PLAIN if t in template]
    bos, eos = (_content((config or {}).get(f"{name}_token")) for name in ("bos", "eos"))
    if config is None:
        begins = re.search(r"<\|begin_of_text\|>|<\|startoftext\|>|<bos>|<BOS_TOKEN>|<s>|<\uff5cbegin[^>]*>", template)
        bos = begins[0] if begins else "<s>" if "bos_token" in template else None
    eos = eos or next((token for token in _ENDS if token in template), "</s>")
    every = list(dict.fromkeys([eos, *([bos] if bos else []), *special]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(dict.fromkeys([*every, *plain, *alphabet]))}, merges=[])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(every)
    made.add_tokens(plain)
    named = {"eos_token": eos, "pad_token": eos, **({"bos_token": bos} if bos else {})}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **named)


def facts(builder: PromptBuilder) -> dict[str, str]:
    """Return the facts about a template: name -> value."""
    template, decode = builder.template, builder.tokenizer.decode
    shown = decode(builder.planner(_TASK))
    gap = shown[shown.index("Add.") : shown.index("FIRST")] if shown.index("TOOLS") < shown.index("FIRST") else ""
    bos, eos = builder.tokenizer.bos_token_id, builder.tokenizer.eos_token
    end, written = decode([builder.end_of_turn]), str(builder.tokenizer.chat_template)
    # either the template leaves the end to the tokenizer, or this tool does not know its token
    found = end != eos or eos in written or "eos_token" in written
    return {
        "system": "last user" if not gap else "own" if gap.removeprefix("Add.").strip() else "first user",
        "end": end if found else f"{end} (none in the template)",
        "bos": "none" if bos is None else str(builder.planner(_TASK).count(bos)),
        "opened": repr(template.opened),
        "lead": repr(template.lead),
        "marks": template.marks.opening.strip(),
        "old thoughts": "dropped" if template.drops_thoughts else "kept",
    }


def faults(builder: PromptBuilder) -> Iterator[str]:
    """Yield the faults of the prompts made with a template."""
    decode, subtask = builder.tokenizer.decode, SubTask("x", None)
    shared, prompts = builder.shared(_TASK), [builder.planner(_TASK), builder.executor(_TASK, subtask)]
    if any(prompt[: len(shared)] != shared for prompt in prompts):
        yield "both roles do not begin alike"
    for part in ("TOOLS", "FIRST", "REPLY", "SECOND", "WORDS"):
        if decode(prompts[0]).count(part) != 1:
            yield f"{part} stands there {decode(prompts[0]).count(part)} times"
    gold = builder.completion(_CALL)
    if gold.count(builder.end_of_turn) != 1:
        yield "a gold output does not end once"
    if not parse_action(builder.decode(gold)).well_formed:
        yield f"a gold output is read as {builder.decode(gold)!r}"
    thought = "" if builder.template.opened else builder.template.marks.opening
    thinking = [*builder.template.literal(f"{thought}hm"), *builder.end_of_thought, *builder._data(_CALL)]
    if not parse_action(builder.decode([*thinking, builder.end_of_turn])).well_formed:
        yield f"a thought with an answer is read as {builder.decode(thinking)!r}"
    later = decode([*gold, *builder.next_step(True, "RESULT", _TASK, subtask, 2)])
    if later.count(decode([builder.end_of_turn])) > 1 + decode(builder.template.open_ids).count(
        decode([builder.end_of_turn])
    ):
        yield f"an end of turn stands twice: {later!r}"
    special = {i: token.content for i, token in builder.tokenizer.added_tokens_decoder.items() if token.special}
    if special.keys() & set(builder._data("".join(special.values()))):
        yield "data becomes special tokens"


def report(name: str, template: str, config: dict[str, Any] | None = None) -> bool:
    """Print a template's line; return whether something is wrong with it."""
    try:
        builder = PromptBuilder(tokenizer_of(template, config), PromptConfig(**_WORDS))
        found, wrong = facts(builder), list(faults(builder))
    except ConfigError as error:
        print(f"{name}: refused: {error}")
        return False
    print(f"{name}: {', '.join(f'{fact} {value}' for fact, value in found.items())}")
    for fault in wrong:
        print(f"  WRONG: {fault}")
    return bool(wrong)


def report_native(name: str, template: str, config: dict[str, Any] | None = None) -> bool:
    """Print and return whether a template's own calls are read as it writes them."""
    try:
        builder = builder_for(tokenizer_of(template, config), PromptConfig(tool_format="native"))
    except ConfigError as error:
        print(f"{name}: refused: {error}")
        return False
    assert builder.native is not None
    written = builder.template.text(call_ids(builder, [ToolCall("add", {"a": 2})], [_TOOL]))
    print(f"{name}: {written!r}")
    return True


def _content(token: Any) -> str | None:
    text: str | None = token["content"] if isinstance(token, dict) else token
    return text


def templates_in(folder: Path) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield name, template and the tokenizer's configuration, if there is one."""
    for path in sorted(folder.rglob("*.jinja")):
        beside = path.with_name("tokenizer_config.json")
        config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
        yield str(path.relative_to(folder)), path.read_text(encoding="utf-8"), config
    for path in sorted(folder.rglob("tokenizer_config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        several = config.get("chat_template") or []
        named = [{"name": "", "template": several}] if isinstance(several, str) else several
        for one in named:
            yield f"{path.relative_to(folder)} {one['name']}".strip(), one["template"], config


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--native", action="store_true", help="look at calls in the family's own form")
    args = parser.parse_args()
    folder = args.folder
    if args.native:
        known = [report_native(*each) for each in templates_in(folder) if re.search(r"\btools\b", each[1])]
        print(f"{len(known)} templates with tools, {sum(known)} of them with calls that are read")
        return
    wrong = [report(*each) for each in templates_in(folder)]
    print(f"{len(wrong)} templates, {sum(wrong)} of them with faults")
    sys.exit(bool(sum(wrong)))


if __name__ == "__main__":
    with reader_may_leave():
        main()

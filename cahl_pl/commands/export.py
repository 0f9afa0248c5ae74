"""Write both adapters of a checkpoint as PEFT folders, for plain PEFT, vLLM or anything else that reads them.

    python -m cahl_pl export --out adapters -c configs/quickstart.yaml --ckpt_path CHECKPOINT

makes `adapters/planner` and `adapters/executor`: safetensors, configuration and a model card. With plain PEFT:

    PeftModel.from_pretrained(base, "adapters/planner", adapter_name="planner")

A folder that contains anything but an earlier export is refused. With vLLM:

    vllm serve BASE --enable-lora --lora-modules planner=adapters/planner executor=adapters/executor

(docs/serving.md; not for activated adapters, which vLLM refuses).

`--push_to_hub OWNER/NAME` uploads both folders to that repository of the Hugging Face hub, created as private if it does not
exist; the key is that of `hf auth login` or the environment variable HF_TOKEN.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import cahl_pl  # noqa: F401 - before torch: it decides how torch's threads wait

# isort: split
from peft import LoraConfig

from cahl_pl.cli import CAHLCLI, main
from cahl_pl.commands import verb_parser
from cahl_pl.commands.configured import read_config
from cahl_pl.errors import ConfigError
from cahl_pl.plurals import counted
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rewards.base import BaseReward
from cahl_pl.runs.checkpoints import fault_of, read_checkpoint
from cahl_pl.runs.resume import resume_last
from cahl_pl.startup.library_warnings import quiet_libraries
from cahl_pl.types import ROLES, Role

_TITLE: Final = "# CAHL {role}\n"


def check_out(out: Path) -> None:
    """Refuse a folder whose files would be overwritten.

    Raises:
        ConfigError: `--out` is a file, or a folder that contains something other than an earlier export.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out names {str(out)!r}, which is a file: give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    cards = [out / role / "README.md" for role in ROLES]
    for role, card in zip(ROLES, cards, strict=True):
        if not card.is_file() or _TITLE.format(role=role) not in card.read_text(encoding="utf-8", errors="replace"):
            raise ConfigError(
                f"--out names {str(out)!r}, which holds files that are no earlier export: delete it, or give another --out"
            )


def export(cli: CAHLCLI, checkpoint: Path, out: Path, command: str) -> None:
    """Load a checkpoint's adapters and save them.

    Args:
        cli: built from the configuration that the checkpoint was trained with.
        checkpoint: file written by a run.
        out: folder for the two folders.
        command: command shown in the model cards.

    Raises:
        ConfigError: the checkpoint is missing or damaged.
        PolicyError: it does not fit the configured model.
    """
    if fault := fault_of(checkpoint):
        raise ConfigError(
            f"--ckpt_path names {str(checkpoint)!r}, which cannot be read ({fault}): give a whole checkpoint"
        )
    policy, data = cli.model.policy, cli.datamodule
    policy.config.adapters = None  # the adapters that training started from may be gone
    policy.load()
    content = read_checkpoint(checkpoint)
    policy.check_config(content["policy_config"])
    policy.load_adapter_state(content["state_dict"])
    policy.version.update(content["policy_version"])
    for role in ROLES:
        config: LoraConfig = policy.lm.peft_config[role]
        if policy.config.adapter == "alora":  # marks an activated adapter for PEFT
            builder = PromptBuilder(policy.tokenizer, data.prompts)
            config.alora_invocation_tokens = builder.invocation(role, data.single_level)
        config.inference_mode = True
    top = out / "README.md"
    own = top.read_bytes() if top.is_file() else None
    policy.lm.save_pretrained(out, selected_adapters=list(ROLES))
    if own is None:
        top.unlink(missing_ok=True)  # PEFT's empty form
    else:
        top.write_bytes(own)
    for role in ROLES:
        for path in (out / role).iterdir():  # safetensors hides its files from all other users, also from a server's
            path.chmod(0o666 & ~_umask())
    for role in ROLES:
        (out / role / "README.md").write_text(_card(cli, role, checkpoint, command, content), encoding="utf-8")


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def push(out: Path, repository: str) -> str:
    """Upload both adapters' folders to the hub.

    Args:
        out: folder written by `export`.
        repository: `OWNER/NAME`; created as private if it does not exist.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the hub refuses or cannot be reached; the folders stay.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        patterns = [f"{role}/*" for role in ROLES]  # nothing else in the folder
        return str(api.upload_folder(repo_id=repository, folder_path=out, allow_patterns=patterns).commit_url)
    except Exception as error:  # refusals, bad names, no network; the HTTP library depends on the version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"--push_to_hub {repository} failed ({reason}): log in with `hf auth login`, check OWNER/NAME and the network; "
            f"the adapters are in {str(out)!r}"
        ) from None


def _training(role: Role, content: Mapping[str, Any]) -> str:
    """Return the training of a checkpoint's adapter, as the end of a sentence."""
    steps, warm = content["policy_version"], content.get("warm", ())
    if not steps[role]:
        return "not trained by the run: it is as it was at the start"
    if role in warm:
        return "trained by imitating gold alone (the warm start), and not by GRPO yet"
    other = next(one for one in ROLES if one != role)
    if not steps[other]:
        return f"trained by GRPO (arXiv 2606.09371), while the {other} was not trained"
    if other in warm:
        return f"trained by GRPO (arXiv 2606.09371), while the {other} only imitated gold"
    return "trained together by GRPO (arXiv 2606.09371)"


def _card(cli: CAHLCLI, role: Role, checkpoint: Path, command: str, content: Mapping[str, Any]) -> str:
    policy, data = cli.model.policy, cli.datamodule
    reward: BaseReward = data.rollout.planner_reward if role == "planner" else data.rollout.executor_reward
    if role == "executor" and data.single_level:
        reward = data.turn_reward
    summary = checkpoint.parent.parent / "summary.json"
    scores = "not measured by the run"
    if summary.is_file():
        values = {k: v for k, v in json.loads(summary.read_text()).items() if k != "details"}
        before = {k: "" if v["before"] is None else f"{v['before']:.3f} before, " for k, v in values.items()}
        scores = "; ".join(f"{k}: {before[k]}{v['after']:.3f} after training" for k, v in values.items())
    return f"""---
library_name: peft
base_model: {json.dumps(str(policy.config.model))}
tags: [lora, tool-use, cahl]
---
{_TITLE.format(role=role)}
The {role} of a pair of adapters ({policy.config.adapter}, rank {policy.config.lora_rank}) on one base, made with cahl-pl and
{_training(role, content)}.
The planner splits a request into sub-tasks, the executor carries each of them out.

- Data: {type(getattr(data.train_tasks, 'source', data.train_tasks)).__name__}, {counted(len(data.train_tasks), "task")}
- Reward: {type(reward).__name__}
- Optimiser steps of this role: {policy.version[role]}
- Task success, greedy: {scores}
- Exported with: `{command}`

The prompts that it was trained with, which it has to be asked with:

```json
{json.dumps(asdict(data.prompts), indent=1, ensure_ascii=False)}
```
"""


def run(arguments: list[str]) -> None:
    """Parse, build, export."""
    parser = verb_parser("export", __doc__, takes_configuration=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--ckpt_path", required=True, help="checkpoint of a run, or `last`: the newest of the newest run"
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload both folders to this repository")
    args, config = parser.parse_known_args(arguments)
    check_out(args.out)
    command = shlex.join(["python", *sys.argv])
    quiet_libraries()
    checkpoint = args.ckpt_path
    if checkpoint == "last":
        read = read_config(config)
        resume_last(read, training=False)
        checkpoint = read.ckpt_path
    export(main(config, run=False), Path(checkpoint), args.out, command)
    pushed = push(args.out, args.push_to_hub) if args.push_to_hub else None
    print(f"written: {args.out / ROLES[0]} and {args.out / ROLES[1]}")
    if pushed is not None:
        print(f"pushed: {pushed}")

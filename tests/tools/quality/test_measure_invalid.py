"""What is wrong with sampled outputs: each kind is counted, and a random model within grammars has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cahl_pl.prompts import PromptBuilder
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Group
from tools.quality import measure_invalid

CONFIG = str(Path(__file__).resolve().parents[3] / "configs" / "quickstart.yaml")


def table(text: str) -> dict[str, dict[str, int]]:
    """The last table that was printed, by role."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    names = rows[0][1:]
    return {
        row[0]: dict(zip(names, map(int, row[1:]), strict=True)) for row in rows if row[0] in ("planner", "executor")
    }


@pytest.mark.parametrize("single", [False, True])
def test_random_outputs_within_grammars_are_never_invalid(tiny_model, capsys, single):
    pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'cahl-pl[constrained]'")
    limits = ("--data.rollout.planner.max_new_tokens=400", "--data.rollout.executor.max_new_tokens=150")
    small = ("--data.rollout.max_steps=1", f"--data.single_level={str(single).lower()}")
    words = ("-c", CONFIG, f"--model.policy.model={tiny_model}", "--model.policy.lora_rank=2", *limits, *small)
    measure_invalid.run(["--outputs", "30", *words])
    found = table(capsys.readouterr().out)
    assert found.keys() == ({"executor"} if single else {"planner", "executor"})
    assert sum(counts["outputs"] for counts in found.values()) >= 30
    assert any(counts["outputs"] > counts["cut off"] for counts in found.values())
    for counts in found.values():
        assert [counts[cause] for cause in measure_invalid.CAUSES] == [0] * 5
        assert counts["calls"] + counts["answers"] <= counts["outputs"] - counts["cut off"]
    if not single:
        return
    measure_invalid.run(
        ["--outputs", "8", "--free", "--test", "test", *words, "--data.rollout.executor.max_new_tokens=8"]
    )
    free = table(capsys.readouterr().out)["executor"]
    assert free["parse"] + free["cut off"] == free["outputs"]  # what is babbled is no call


def test_every_cause_is_counted_once_an_output(tiny_model, policy):
    task = next(task for task in ToolWorld("test", 40) if task.gold and task.tools[0].parameters.get("required"))
    builder = PromptBuilder(policy.tokenizer)
    call = task.gold[0].call
    name = call.name

    def written(text):
        return torch.tensor(builder.completion(text))

    texts = [
        "no call",
        '<tool_call>{"name": "none_such", "parameters": {}}</tool_call>',
        f'<tool_call>{{"name": "{name}", "parameters": {{}}}}</tool_call>',
        "<answer>Done.</answer>",
        "cut",
    ]
    ids = [written(text) for text in texts]
    zeros = torch.zeros(len(ids))
    cut = torch.tensor([False] * 4 + [True])
    group = Group(torch.tensor([1]), ids, zeros, {}, zeros, cut, 0)
    plans = Group(torch.tensor([1]), [written("<plan>\n</plan>"), written("no")], zeros[:2], {}, zeros[:2], cut[:2], 0)
    found = measure_invalid.count({"planner": [plans], "executor": [group]}, task, builder, False)
    assert found["executor"] == {
        "outputs": 5,
        "cut off": 1,
        "calls": 2,
        "answers": 1,
        "parse": 1,
        "unknown_tool": 1,
        "missing": 1,
    }
    assert found["planner"]["outputs"] == 2
    assert found["planner"]["parse"] >= 1


def test_what_cannot_be_measured_is_one_sentence(tiny_model, capsys):
    words = ("-c", CONFIG, f"--model.policy.model={tiny_model}", "--model.policy.lora_rank=2")
    with pytest.raises(SystemExit):
        measure_invalid.run(["--test", "nowhere", *words])
    assert "data.test has no set of tasks 'nowhere'; it has test, test_unseen_tools" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        measure_invalid.run(["--free", *words, "--data.train.init_args.size=2", "--data.rollout.max_prompt_tokens=9"])
    assert "all tasks are longer than data.rollout.max_prompt_tokens" in capsys.readouterr().err

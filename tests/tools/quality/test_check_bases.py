"""The table of bases: what it says of a base that is right, of one that is refused, and of one that is wrong."""

from __future__ import annotations

from dataclasses import replace

import torch

from tools.quality import check_bases
from tools.quality.check_bases import TOLERANCE, groups_of, scoring_error, table
from tools.quality.random_bases import FAMILIES, build


def test_right_and_refused_bases_have_a_line_each(monkeypatch):
    monkeypatch.setattr(check_bases, "groups_of", lambda longest: groups_of(min(longest, 40)))
    head, _, right, refused = table(["Llama", "BLOOM"])
    assert head == "| family | model type | scoring | sampling | greedy | checkpointing |"
    assert right == "| Llama | `llama` | ok | ok | ok | ok |"
    assert refused.startswith("| BLOOM | `bloom` | refused: a bloom model takes distances (ALiBi) from the row")
    assert refused.count("|") == head.count("|")


def test_a_wrong_base_is_found(tmp_path, monkeypatch):
    build(FAMILIES["Llama"], tmp_path)
    policy = check_bases.load(tmp_path)
    assert scoring_error(policy, groups_of(40)) < TOLERANCE
    mask = policy.attention_mask

    def everything(intervals):
        return replace(intervals, keys=torch.zeros_like(intervals.keys), ends=intervals.ends + 10_000)

    monkeypatch.setattr(policy, "attention_mask", lambda seen, *at: mask(everything(seen), *at))
    assert scoring_error(policy, groups_of(40)) > 100 * TOLERANCE

"""Configurations that cannot be read, or can and do not mean what they say: one sentence with file and line."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"data: \xff", "cannot be read: .*not UTF-8; convert .* to UTF-8.*"),
        (b"data: [1", "cannot be read: .*line 1, column 9"),
        (b"data:\n\tseed: 1", "cannot be read: .*indent with spaces, not with tabs"),
        (b"data:\n  seed: 1\n  seed: 2", ", line 3: the key 'seed' stands in line 2 already: leave one of them"),
        (b"data: {seed: 1}\nmodel:\n  planner:\n    lr:1", ", line 4: write a space behind 'lr:'"),
        (b"", "holds no keys: write KEY: VALUE lines, or leave it out"),
        (b"- data", "holds no keys: .*"),
    ],
)
def test_a_broken_configuration_file_is_named(fail, tmp_path, content, reason):
    other = tmp_path / "other.yaml"
    other.write_bytes(content)
    assert re.fullmatch(f"error: the configuration {other} ?{reason}.*", fail("-c", str(other)))


@pytest.mark.parametrize("value", ["[4, 4]", "3", "[{planner_group_size: 4}]"])
@pytest.mark.parametrize(
    "key", ["data.rollout", "data.prompts", "data.inference", "model.policy", "model.grpo", "model.planner"]
)
def test_what_has_keys_of_its_own_is_no_list_and_no_number(fail, tmp_path, key, value):
    room, part = key.split(".")
    other = tmp_path / "other.yaml"
    other.write_text(f"{room}:\n  {part}: {value}\n")
    said = rf"{key} has keys of its own, such as \w+: write them below it"
    assert re.fullmatch(f"error: {other}, line 2: {said}", fail("-c", str(other)))
    assert re.match(f"error: .*{key}", fail(f"--{key}={value}"))

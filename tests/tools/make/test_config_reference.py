"""The page of all configuration keys is complete, and what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cahl_pl.cli import known_keys, main
from tools.make import config_reference

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool():
    return config_reference


def test_the_page_is_what_the_code_says(tool):
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python -m tools.make.config_reference"


def test_every_key_of_the_command_line_is_on_the_page(tool):
    config = ROOT / "configs" / "quickstart.yaml"
    parser = main(["-c", str(config)], run=False).parser
    keys = {key for key in known_keys(parser) if key.startswith(("model.", "data."))}
    keys = {key for key in keys if not key.endswith((".help", "+"))}
    assert len(keys) > 50
    assert keys - set(tool.keys()) - {"model.policy", "model.grpo"} <= {  # groups of keys have a heading
        "model.planner", "model.executor", "model.planner_grpo", "model.executor_grpo", "data.prompts", "data.rollout",
        "data.rollout.planner", "data.rollout.executor",
        "data.inference",
    }  # fmt: skip
    page = tool.page()
    assert all(f"`{key.rpartition('.')[2]}`" in page or f"`{key}`" in page for key in keys)


def test_nothing_is_left_without_a_meaning(tool):
    rows = [line for line in tool.page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_types_are_written_as_a_reader_expects(tool):
    assert tool._type(str | None) == "str | null"
    assert tool._type(dict[int, dict[str, float]] | None) == "dict[int, dict[str, float]] | null"
    assert tool._type(tuple[float, ...]) == "tuple[float, ...]"

"""Prompts at and above the limit, under each policy."""

from __future__ import annotations

import pytest

from cahl_pl.errors import ConfigError
from cahl_pl.rollout.prompt_limit import fit_prompts
from cahl_pl.types import Message, Task


def task(name: str, *words: str, system: bool = False) -> Task:
    messages = [Message("user", word) for word in words]
    return Task(name, (*[Message("system", "s")] * system, *messages), ())


def render(task: Task) -> list[int]:
    """A token a character."""
    return [ord(character) for message in task.messages for character in message.content]


SHORT, LONG = task("short", "ab", "cd"), task("long", "abc", "def", "gh")


def test_drop_leaves_them_out_and_counts():
    tasks, prompts, metrics = fit_prompts([LONG, SHORT], render, limit=4, too_long="drop")
    assert tasks == [SHORT]
    assert prompts == [[97, 98, 99, 100]]
    assert metrics == {"rollout/tasks": 2.0, "rollout/tasks_too_long": 1.0}


def test_truncate_takes_the_oldest_messages_and_no_more_than_needed():
    tasks, prompts, metrics = fit_prompts([LONG, SHORT], render, limit=5, too_long="truncate")
    assert [m.content for m in tasks[0].messages] == ["def", "gh"]
    assert prompts[0] == [ord(c) for c in "defgh"]
    assert tasks[0].id == "long"
    assert tasks[1] is SHORT
    assert metrics == {"rollout/tasks": 2.0, "rollout/tasks_too_long": 0.0, "rollout/tasks_truncated": 1.0}


def test_truncate_keeps_the_system_message_and_the_request():
    given = task("t", "abc", "def", "gh", system=True)
    tasks, _, _ = fit_prompts([given], render, limit=3, too_long="truncate")
    assert [m.content for m in tasks[0].messages] == ["s", "gh"]
    tasks, _, metrics = fit_prompts([given], render, limit=2, too_long="truncate")
    assert tasks == []
    assert metrics["rollout/tasks_too_long"] == 1.0
    assert metrics["rollout/tasks_truncated"] == 0.0


def test_fail_names_the_task_the_length_and_the_way_out():
    with pytest.raises(ConfigError, match=r"'long' has 8 tokens.*max_prompt_tokens = 4.*too_long"):
        fit_prompts([SHORT, LONG], render, limit=4, too_long="fail")
    assert fit_prompts([SHORT], render, limit=4, too_long="fail").tasks == [SHORT]

"""JSON that is a call of a tool that is not offered is no answer; JSON that names none is."""

from __future__ import annotations

import pytest

from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.notations import says_nothing
from cahl_pl.types import ToolSpec

TOOL = ToolSpec("get_weather", "d", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "web_search", "query": "Oslo weather"}',
        '```json\n{"tool_name": "web_search", "query": "Oslo"}\n```',
        '[{"tool": "web_search", "query": "Oslo"}]',
        '{"function": "web_search", "query": "Oslo"}',
        '{"tool": "web_search"}',
        '{"tool_call": {"name": "web_search", "input": {}}}',
        '{"function_call": {"name": "web_search"}}',
    ],
)
def test_json_that_calls_a_tool_that_is_not_offered_is_told(text: str) -> None:
    assert unread_call(text, [TOOL]) in (
        "JSON that names the tool 'web_search'", "JSON that names the tool 'tool_call'",
        "JSON that names the tool 'function_call'",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ['{"name": "Oslo", "country": "Norway"}', '{"tool_calls": []}', '{"tool": "a hammer and nails"}', '{"tool": null, "x": 1}'],
)
def test_other_json_is_an_answer(text: str) -> None:
    assert unread_call(text, [TOOL]) is None


@pytest.mark.parametrize(
    "text",
    [
        "Act: get_weather Oslo",
        "Act 1: get_weather Oslo",
        "Think: hm\nAct: bash\n```bash\nls\n```",
        "Thought: look. Action: get_weather(Oslo)",
        "Thought: look. Action: look it up",
        "**Thought:** hm\n**Action:** search",
    ],
)
def test_what_is_thought_and_done_is_a_call(text: str) -> None:
    assert unread_call(text, [TOOL]) is not None
    assert not says_nothing(text)


@pytest.mark.parametrize("text", ["Thought: I know.\nAction: none\nIt rains.", "Act: III, Scene: 2", "I thought: act now."])
def test_other_words_are_none(text: str) -> None:
    assert unread_call(text, [TOOL]) is None

"""Warnings about a user's tools: a sentence each, not Python's place and line of source."""

from __future__ import annotations

import json
import warnings

from cahl_pl.commands import _warnings_as_sentences, console
from cahl_pl.errors import ToolWarning


def test_the_command_line_prints_them_as_its_other_warnings(tmp_path, monkeypatch, capsys):
    tools = tmp_path / "my_tools.py"
    tools.write_text('def look(city: str) -> str:\n    """Look."""\n    return city\n\n\ndef bare(x):\n    return x\n')
    gold = [{"name": "look", "arguments": {"city": "Oslo"}}]
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"id": "r", "messages": [{"role": "user", "content": "q"}], "gold": gold})
    )
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # not errors, as in these tests
        console(["check-data", "rows.jsonl", "--tools", str(tools)])
    out, err = capsys.readouterr()
    assert out == "rows.jsonl: 1 row kept, 0 with a relaxed schema, 0 dropped\n"
    assert err == f"warning: {tools}: functions without a docstring are not offered: bare\n"


def test_others_are_shown_as_before(capsys):
    with warnings.catch_warnings(record=True) as others, _warnings_as_sentences():
        warnings.simplefilter("always")
        warnings.warn("of a library", UserWarning, stacklevel=1)
        warnings.warn("of tools", ToolWarning, stacklevel=1)
    assert [str(one.message) for one in others] == ["of a library"]
    assert capsys.readouterr().err == "warning: of tools\n"

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.quality.measure_tool_text import main

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds a case. Slow.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
NOW = {
    "type": "function",
    "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "q"}]
    rows = [
        {"id": str(i), "messages": messages, "tools": tools, "gold": []}
        for i, tools in enumerate([[FIND, NOW], [NOW], []])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_table_counts_words_and_marks_without_a_tokenizer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(path)])
    now, find = json.dumps(NOW), json.dumps(FIND)
    marks = sum(not c.isalnum() and c not in " _" for c in now + now + find)
    # type function function name now description parameters type object properties: 10 words, and of `find` 13 up to
    # "object" with those of the description, and: properties name type string required name
    mean = (marks + 2 * 10 + 13 + 6) / 2  # the task without tools does not count
    # find(name: string): Finds a case. Slow. and twice now(): or, of names, find: Finds a case and now
    compact, brief, names = (13 + 4 + 4) / 2, (10 + 3 + 3) / 2, (5 + 1 + 1) / 2
    assert capsys.readouterr().out == (
        "| data | tasks | tools a task | json | compact | brief | names |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        f"| rows.jsonl | 2 | 1.5 | {mean:.0f} | {compact:.0f} ({100 * (compact / mean - 1):+.0f} %) "
        f"| {brief:.0f} ({100 * (brief / mean - 1):+.0f} %) | {names:.0f} ({100 * (names / mean - 1):+.0f} %) |\n"
        "\nTokens: a run of letters, digits and underscores, or one other character that is not white space.\n"
    )


def test_a_tokenizer_and_a_format(
    path: Path, tiny_model: Path, rlla_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"jsonl:{path}", f"rlla:{rlla_file}", "--tokenizer", str(tiny_model)])
    lines = capsys.readouterr().out.splitlines()
    now, find = len("now()"), len("find(name: string): Finds a case")  # the tiny model's tokens are bytes
    assert lines[2].startswith("| jsonl:rows.jsonl | 2 | 1.5 | ")
    assert lines[2].split(" | ")[-2].startswith(f"{(find + 1 + now + now) / 2:.0f} (-")
    assert lines[3].startswith("| rlla:rlla.json | 3 | 1.0 | ")
    assert lines[3].split(" | ")[-2].startswith(f"{len('sum(a?: integer, b?: integer): Adds two numbers')} (-")
    assert lines[-1] == f"Tokens: {tiny_model.name}."


def test_bfcl_comes_from_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bfcl_eval")
    main(["bfcl:simple_python"])
    assert "| bfcl:simple_python | 400 | 1.0 | " in capsys.readouterr().out


def test_tools_of_another_file(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_dir / "sealtools"
    main([f"seal-tools:{folder / 'dev.jsonl'}", "--tools", str(folder / "tool.jsonl")])
    assert "| seal-tools:dev.jsonl | 700 | 6.6 | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "error: none.jsonl: there is no such file"),
        (["rlla:none.json"], "error: none.json: there is no such file"),
        (["seal-tools:dev.jsonl"], "error: the format seal-tools needs files that declare its tools"),
        (["bfcl:none"], "error: bfcl:none: BFCL has no such category; use one of simple_python"),
        (["none.jsonl", "--tokenizer", "./none"], r"error: the tokenizer './none' cannot be loaded \(.*\); correct"),
        (["none.jsonl", "--tokenizer", "./none.gguf"], r"error: the tokenizer './none.gguf' cannot be loaded"),
    ],
)
def test_what_cannot_be_read(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(arguments)


def test_a_file_without_tools(path: Path) -> None:
    path.write_text("{}")
    with pytest.raises(
        SystemExit, match=r"error: .*: no task offers a tool \(.*line 1: the field 'id' is missing\); if"
    ):
        main([str(path)])
    path.write_text(json.dumps({"id": "a", "messages": [{"role": "user", "content": "q"}], "tools": [], "gold": []}))
    with pytest.raises(SystemExit, match=r"error: .*: no task offers a tool; if the format jsonl is not right"):
        main([str(path)])

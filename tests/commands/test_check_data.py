from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.commands import console


def main(arguments: list[str]) -> int:
    """Run the verb; its exit status."""
    try:
        console(["check-data", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "q"}]
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    odd = {"id": "odd", "messages": messages, "tools": tools, "gold": [{"name": "f", "arguments": {}}]}
    path.write_text(
        "\n".join(json.dumps(row) for row in [{"id": "a", "messages": messages, "tools": [], "gold": []}, odd])
    )
    return path


def test_a_file_without_dropped_rows_passes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"{path}: 1 row kept, 1 with a relaxed schema, 0 dropped\n  relaxed odd: gold call 1: missing required parameter"
    )
    assert main([str(path), "--on-contradiction", "drop"]) == 1


def test_a_dropped_row_fails_and_json_tells_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with path.open("a") as file:
        file.write("\n{}")
    assert main([str(path), "--json"]) == 1
    report: Any = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in ("path", "kept", "relaxed", "dropped")} == {
        "path": str(path),
        "kept": 1,
        "relaxed": 1,
        "dropped": 1,
    }
    assert report["relaxed_rows"] == [{"id": "odd", "reason": "gold call 1: missing required parameter 'x' of f"}]
    assert report["dropped_rows"] == [{"id": "row 2", "reason": f"{path}, line 3: the field 'id' is missing"}]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--json"]) == 2
    assert "there is no such file" in json.loads(capsys.readouterr().out)["error"]


MODULE = (
    'def ring(bell: str, state: dict) -> str:\n    """Ring a bell.\n\n    Args:\n        bell: Which one.\n    """\n'
    '    if bell not in state["bells"]:\n        raise ValueError(f"no bell {bell}")\n    return bell\n'
)


def bell(name: str, words: str = "Ring!", calls: int = 1, ring: str = "a", **other: Any) -> dict[str, Any]:
    gold = [{"name": "ring", "arguments": {"bell": ring}}] * calls
    row = {"id": name, "messages": [{"role": "user", "content": words}], "gold": gold, "ordered": True}
    return row | {"state": {"bells": ["a"]}} | other


def test_tasks_are_held_to_a_configuration(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bells.py").write_text(MODULE)
    other = {"function": {"name": "sing", "parameters": {"type": "object", "properties": {}}}}
    rows = [bell("good"), bell("long", "x" * 3000), bell("many", calls=9), bell("wrong", ring="b"), bell("strange",
            tools=["ring", other])]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = ["rows.jsonl", "--tools", "bells.py", "-c", "quickstart", f"--model.policy.model={tiny_model}"]
    run += ["--data.environment", "cahl_pl.environments.PythonToolsEnvironment"]
    run += ["--data.environment.init_args.module", "bells.py"]
    assert main(run) == 1
    out = capsys.readouterr().out
    assert out.startswith("rows.jsonl: 5 rows kept, 0 with a relaxed schema, 0 dropped\n")
    for line in (
        "1 of 5 tasks has prompts of more than 1,024 tokens: raise data.rollout.max_prompt_tokens, to 3,",
        "1 of 5 tasks has more gold calls than data.rollout.max_steps = 5: raise it, to 9 for all of them\n  many: 9",
        "1 of 5 tasks names tools that the environment lacks: offer those that it has, or give data.environment the others\n"
        "  strange: sing",
        '  wrong: gold call 1, ring: {"error": "no bell b"}',
    ):
        assert line in out
    assert main([*run, "--no-run", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["faults"]
    assert [fault["number"] for fault in found] == [1, 1, 1]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert main(run) == 0

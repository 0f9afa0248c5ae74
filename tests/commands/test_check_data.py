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
    assert report["dropped_rows"] == [{"id": "line 3", "reason": f"{path}, line 3: the field 'id' is missing"}]


def test_a_file_of_bad_rows_alone_is_told_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"messages": []}\n')
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "2 dropped" in out
    assert "the field 'id' must be text" in out
    assert "line 2: " in out
    assert main([str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["dropped"] == 2


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
        "1 of 5 tasks names tools that the environment lacks (PythonToolsEnvironment with module: bells.py): give it the tools "
        "of the rows, --data.environment.init_args.module bells.py, or offer its own\n  strange: sing",
        '  wrong: gold call 1, ring: {"error": "no bell b"}',
    ):
        assert line in out
    assert main([*run, "--no-run", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["faults"]
    assert [fault["number"] for fault in found] == [1, 1, 1]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert main(run) == 0


def run_of(tiny_model: Path, *more: str) -> list[str]:
    return ["rows.jsonl", "--tools", "bells.py", "-c", "quickstart", f"--model.policy.model={tiny_model}", *more]


OWN = ("--data.environment.init_args.toolkit", "bells.py")


def test_answers_that_differ_from_the_stored_results_are_told_and_no_fault(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bells.py").write_text(MODULE)
    call = {"name": "ring", "arguments": {"bell": "a"}}
    rows = [bell(name, gold=[call | {"result": name}, call]) for name in ("a", "b", "c", "d", "e")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(run_of(tiny_model, *OWN)) == 0
    assert capsys.readouterr().out.endswith(
        "4 of 5 tasks have results in their gold that the tools answer otherwise: that is right where answers vary, such as "
        "the time of day; else correct `result`, or the tools\n"
        '  b: gold call 1, ring: stored "b", answered "a"\n'
        '  c: gold call 1, ring: stored "c", answered "a"\n'
        '  d: gold call 1, ring: stored "d", answered "a"\n'
        "    and 1 more, alike\n"
    )
    assert main(run_of(tiny_model, *OWN, "--json")) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["faults"], [note["number"] for note in report["notes"]]) == ([], [4])


def test_a_reference_to_what_the_tools_do_not_answer_is_a_fault(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bells.py").write_text(MODULE)
    gold = [{"name": "ring", "arguments": {"bell": "a"}, "result": "b"}]
    row = bell("r", gold=[*gold, {"name": "ring", "arguments": {"bell": "$1"}}], state={"bells": ["a", "b"]})
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert main(run_of(tiny_model, *OWN)) == 1
    out = capsys.readouterr().out
    assert "1 of 1 task has references to values that the tools do not answer: a plan that refers to them" in out
    assert "r: gold call 2, ring: 'bell' is \"b\", which is not in the result of call 1 that it refers to\n" in out
    assert main(run_of(tiny_model, *OWN, "--no-run")) == 0


def test_tools_that_the_configured_toolkit_lacks_are_told_with_the_key_that_gives_them(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bells.py").write_text(MODULE)
    cure = "--data.environment.init_args.toolkit bells.py"
    which = "(ExecutableEnvironment with toolkit: cahl_pl.toolworld.toolkit)"
    (tmp_path / "rows.jsonl").write_text(json.dumps(bell("r", state=None)))
    assert main(run_of(tiny_model)) == 1
    said = (
        f"1 of 1 task names tools that the environment lacks {which}: give it the tools of the rows, {cure}, or offer"
    )
    assert said in capsys.readouterr().out
    (tmp_path / "rows.jsonl").write_text(json.dumps(bell("r")))
    assert main(run_of(tiny_model)) == 1
    assert (
        f"is refused by the environment {which}: correct their state, or these tools; for tools of your own: {cure}"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize(
    ("constructor", "said"),
    [
        ("self, bells, name", "Bells(**state) needs name, which the row's `state` does not have: write it there"),
        ("self", "Bells(**state) takes no bells, which the row's `state` has: leave it out there"),
        ("self, bells=1 / 1, **more", None),
        ("self, bells", "ValueError: no a"),
    ],
)
def test_a_class_that_a_rows_state_cannot_make_is_told(
    constructor: str,
    said: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    body = 'raise ValueError("no a")' if said and said.startswith("ValueError") else "pass"
    (tmp_path / "bells.py").write_text(
        f'class Bells:\n    def __init__({constructor}):\n        {body}\n'
        '    def ring(self, bell: str) -> str:\n        """Ring."""\n        return bell\n'
    )  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(bell("r")))
    assert main(["rows.jsonl", "--tools", "bells.py:Bells"]) == int(said is not None)
    out = capsys.readouterr().out
    assert (said or "1 row kept") in out
    assert ("1 of 1 task is refused" in out) == (said is not None)

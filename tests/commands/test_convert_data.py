from __future__ import annotations

import json
from pathlib import Path

import pytest

from cahl_pl.commands import console


def main(arguments: list[str]) -> int:
    """Run the verb; its exit status."""
    try:
        console(["convert-data", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


ROW = {"query": "q", "tools": '[{"name": "f", "parameters": {}}]', "answers": "[]"}


def test_a_file_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps([ROW, {}]))
    assert main(["xlam", str(source), str(output)]) == 1  # a row was left out
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{source}: 1 row kept, 0 with a relaxed schema, 1 dropped"
    assert lines[-1] == f"written: {output} and {output}.dropped.txt (1 line)"
    assert json.loads(output.read_text())["id"] == "in-0"


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps([ROW]))
    assert main(["rlla", str(tmp_path / "none.json"), "x"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["seal-tools", str(source), "x"]) == 2
    assert capsys.readouterr().err == "error: the format seal-tools needs files that declare its tools\n"
    assert main(["xlam", str(source), str(tmp_path / "no" / "x")]) == 2
    assert "cannot be written (No such file or directory); choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["", ".part", ".dropped.txt", ".dropped.txt.part"])
def test_what_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str) -> None:
    output, source, folder = tmp_path / "out.jsonl", tmp_path / f"out.jsonl{end}", tmp_path / "dialogues"
    folder.mkdir()
    (folder / "other").mkdir()
    text = json.dumps(ROW)
    source.write_text(text)
    other = tmp_path / "other.jsonl"
    other.write_text(text)
    (tmp_path / "link").symlink_to(source)
    for arguments in (
        ["xlam", str(source), str(output)],
        ["xlam", str(tmp_path / "link"), str(folder / ".." / output.name)],
        ["seal-tools", str(other), str(output), "--tools", str(source)],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err == (
            f"error: {arguments[2]}: writing it would destroy {source}, which is read; choose another OUTPUT\n"
        )
    assert main(["api-bank-dialogues", str(folder), str(folder / "other" / "o.jsonl"), "--tools", str(other)]) == 2
    assert f"writing it would destroy {folder}" in capsys.readouterr().err
    assert source.read_text() == text
    assert sorted(tmp_path.iterdir()) == sorted([folder, tmp_path / "link", other, source])


def test_names_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps([ROW]))
    assert main(["xlam", str(source), ""]) == 2
    assert capsys.readouterr().err == "error: OUTPUT must be the name of a file, not ''\n"
    assert main(["xlam", "x" * 300, str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {'x' * 300}: there is no such file")

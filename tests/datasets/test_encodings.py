"""Files that are not UTF-8: one sentence with the command that converts them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from cahl_pl.cli import Parser
from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.formats.tau_bench import python_rows
from cahl_pl.datasets.requests import Requests
from cahl_pl.datasets.rows import read_rows
from cahl_pl.errors import UserError
from cahl_pl.errors.encodings import wide_encoding

ROW = {
    "id": "é",
    "messages": [{"role": "user", "content": "Grüße"}],
    "tools": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    "gold": [],
}
LINES = "".join(json.dumps(ROW | {"id": f"é{i}"}, ensure_ascii=False) + "\n" for i in range(3))
LIST = json.dumps([ROW, ROW], ensure_ascii=False, indent=1)
WIDE = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32": "UTF-32",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
}


def asked(path: Path) -> None:
    tools = path.parent / "some.json"
    tools.write_text(json.dumps(ROW["tools"]))
    Requests(str(path), str(tools))


def offered(path: Path) -> None:
    Requests("Go.", str(path))


READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "rows.jsonl": ("rows.jsonl", LINES, JsonlDataset),
    "a list": ("rows.json", LIST, lambda path: list(read_rows(path))),
    "requests.jsonl": ("requests.jsonl", LINES, asked),
    "tools.json": ("tools.json", json.dumps(ROW["tools"]) + " ", offered),
    "servers.json": ("servers.json", json.dumps({"mcpServers": {"é": {"command": "x"}}}, ensure_ascii=False), offered),
    "tasks.py": ("tasks.py", "tasks = ['é']\n", lambda path: list(python_rows(path))),
}


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_in_utf_16_is_told_so(tmp_path: Path, reader: str, encoding: str) -> None:
    name, text, read = READERS[reader]
    path = tmp_path / name
    (tmp_path / "tools").mkdir()
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError) as raised:
        read(path)
    new = path.with_suffix(f".utf8{path.suffix}")
    assert str(raised.value) == (
        f"{path}: the file is {encoding[:6].upper()}, not UTF-8; convert it to UTF-8: "
        f"iconv -f {WIDE[encoding]} -t UTF-8 {path} > {new}"
    )
    if which("iconv"):
        command = str(raised.value).rpartition("UTF-8: ")[2]
        subprocess.run(["sh", "-c", command], check=True)
        assert new.read_text(encoding="utf-8").removeprefix("\ufeff") == text


@pytest.mark.parametrize(
    ("name", "text", "read", "place"),
    [
        ("rows.jsonl", LINES, JsonlDataset, ", line 1: byte 8"),
        ("rows.json", LIST, lambda path: list(read_rows(path)), ", line 3: byte 14"),
        ("requests.txt", "Go.\nGrüße", asked, ": byte 6"),
        ("my tools.json", json.dumps(["é"], ensure_ascii=False), offered, ": byte 2"),
    ],
)
def test_other_encodings_are_told_with_the_place(tmp_path: Path, name: str, text: str, read: Any, place: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as raised:
        read(path)
    said = "is not UTF-8; convert the file to UTF-8, from WINDOWS-1252 or whatever it is in: iconv -f WINDOWS-1252 -t UTF-8 "
    assert str(raised.value).startswith(f"{path}{place} {said}")


def test_a_configuration_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes("data:\n  seed: 1\n".encode("utf-16"))
    with pytest.raises(SystemExit):
        Parser().parse_path(path)
    assert "the file is UTF-16, not UTF-8; convert it to UTF-8: iconv -f UTF-16 -t UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a"', "é".encode(), b"\xef\xbb\xbf{}", b"PAR1", b"7"])
def test_ordinary_starts_are_none_of_them(data: bytes) -> None:
    assert wide_encoding(data) is None

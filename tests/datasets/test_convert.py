from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import DataError, JsonlDataset, RllaDataset, SealToolsDataset
from cahl_pl.datasets.convert import FORMATS, convert, read_source, source_name
from cahl_pl.datasets.rows import FileRow
from cahl_pl.errors import ConfigError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

CUT = "(the text ends too early: is the line or the file cut off?)"
XLAM = {"query": "q", "tools": '[{"name": "f", "parameters": {}}]', "answers": "[]"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_rows_in_are_rows_out_and_dropped_rows(tmp_path: Path) -> None:
    odd = XLAM | {
        "tools": '[{"name": "g", "parameters": {"x": {"type": "int"}}}]',
        "answers": '[{"name": "g", "arguments": {"x": "?"}}]',
    }
    path = write(tmp_path / "in.jsonl", XLAM, odd, XLAM | {"tools": "["}, 3)
    output = tmp_path / "out.jsonl"
    report = convert(read_source("xlam", path), str(path), output)
    assert report.counts == (1, 1, 2)
    loaded = JsonlDataset(output, strict=True)
    assert loaded.report.kept == ["in-0", "in-1"]  # relaxed before it was written
    assert (tmp_path / "out.jsonl.dropped.txt").read_text() == (
        f"line 3: {path}, line 3: the field 'tools': not JSON: Expecting value at character 1 {CUT}\n"
        f"line 4: {path}, line 4: a row of the format xlam must be an object, not an integer\n"
    )
    report = convert(read_source("xlam", path), str(path), output, on_contradiction="drop")
    assert report.counts == (1, 0, 3)


def test_nothing_is_left_behind_where_nothing_was_dropped_or_written(tmp_path: Path) -> None:
    path, output = write(tmp_path / "in.jsonl", XLAM), tmp_path / "out.jsonl"
    convert(read_source("xlam", path), str(path), output)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    before = output.read_text()
    with pytest.raises(DataError, match=r"no row can be used; the first fault: .*line 1: "):
        convert(read_source("rlla", path), str(path), output)
    (tmp_path / "broken.json").write_text(f"[{json.dumps(XLAM)}, {{")
    with pytest.raises(DataError, match="row 2"):
        convert(read_source("xlam", tmp_path / "broken.json"), "broken", output)
    assert output.read_text() == before
    assert not list(tmp_path.glob("*.part"))


def test_converted_rows_are_the_loaders_tasks(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    rlla, seal = data_dir / "rlla" / "rlla_4k_test.parquet", data_dir / "sealtools"
    assert convert(read_source("rlla", rlla), "rlla", output).counts == (72, 7, 1)
    ours, theirs = JsonlDataset(output, strict=True), RllaDataset(rlla)
    assert [ours[i] for i in range(79)] == [theirs[i] for i in range(79)]
    source = read_source("seal-tools", seal / "dev.jsonl", [seal / "tool.jsonl"], num_distractors=2, seed=3)
    assert convert(source, "seal", output).counts == (692, 8, 0)
    ours, theirs = JsonlDataset(output, strict=True), SealToolsDataset(seal / "dev.jsonl", seal / "tool.jsonl", 2, 3)
    assert [ours[i] for i in range(700)] == [theirs[i] for i in range(700)]


@pytest.mark.parametrize(
    ("name", "source", "tools", "counts"),
    [
        ("rlla", "rlla/rlla_sft.json", "", (370, 21, 9)),
        ("api-bank", "apibank/level-2-api_processed.json", "", (58, 3, 6)),
        ("api-bank-sequences", "apibank/level-3-api_processed.json", "", (45, 5, 0)),
        ("api-bank-dialogues", "apibank/dialogues", "apibank/level-*.json", (829, 22, 14)),
        ("seal-tools", "sealtools/test_in_domain.jsonl", "sealtools/tool.jsonl", (689, 11, 0)),
    ],
)
def test_real_data_is_counted_in_and_out(
    data_dir: Path, tmp_path: Path, name: str, source: str, tools: str, counts: tuple[int, int, int]
) -> None:
    output, declared = tmp_path / "out.jsonl", sorted(data_dir.glob(tools)) if tools else []
    assert convert(read_source(name, data_dir / source, declared), source, output).counts == counts
    assert JsonlDataset(output, strict=True).report.counts == (counts[0] + counts[1], 0, 0)
    dropped = tmp_path / "out.jsonl.dropped.txt"
    assert (len(dropped.read_text().splitlines()) if dropped.exists() else 0) == counts[2]


def test_the_project_s_own_format_is_normalised(tmp_path: Path) -> None:
    row = {"id": "a", "messages": [{"role": "user", "content": "q"}], "tools": [], "gold": []}
    (tmp_path / "list.json").write_text(json.dumps([row]))
    convert(read_source("jsonl", tmp_path / "list.json"), "list", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row | {"tags": {"kind": "none"}}


def test_sources_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no format 'csv'; use one of xlam, hammer, rlla"):
        read_source("csv", "x")
    with pytest.raises(ConfigError, match="the format seal-tools needs files that declare its tools"):
        read_source("seal-tools", "x")
    with pytest.raises(ConfigError, match="the format xlam declares its own tools: leave the files of tools out"):
        read_source("xlam", "x", ["y"])
    with pytest.raises(ConfigError, match="has one file of tools"):
        read_source("seal-tools", "x", ["y", "z"])
    assert len(FORMATS) == 19


def test_names_of_sources() -> None:
    assert source_name("a/rlla.json") == "rlla"
    assert source_name("hub:owner/some.name:train") == "some.name"


@pytest.mark.parametrize(
    "change",
    [
        {"answers": '[{"name": "f", "arguments": {"x": 1e999}}]'},
        {"tools": '[{"name": "f", "parameters": {"x": {"type": "float", "default": 1e999}}}]'},
    ],
)
def test_a_number_out_of_range_costs_its_row_only(tmp_path: Path, change: dict[str, str]) -> None:
    path, output = write(tmp_path / "in.jsonl", XLAM, XLAM | change), tmp_path / "out.jsonl"
    assert convert(read_source("xlam", path), str(path), output).counts == (1, 0, 1)
    assert "line 2: the field" in (reasons := (tmp_path / "out.jsonl.dropped.txt").read_text())
    assert reasons.endswith("the number 1e999 is out of range: write a smaller one, or text\n")


def test_values_that_json_does_not_have_cost_their_row_only(tmp_path: Path) -> None:
    rows = [FileRow(i, f"row {i}", value, None) for i, value in enumerate([1, math.inf, {1}, "\ud800"])]

    def read(value: Any, index: int) -> list[Task]:
        tool = ToolSpec("f", "", {"type": "object", "properties": {"x": {}}})
        return [Task(f"t{index}", (Message("user", "q"),), (tool,), (GoldCall("f", {"x": value}),))]

    report = convert((rows, read), "made", tmp_path / "out.jsonl")
    assert report.kept == ["t0"]
    assert [name for name, _ in report.dropped] == ["t1", "t2", "t3"]
    assert (
        report.dropped[0][1]
        == "row 1: gold call 1 holds a value that JSON does not have, such as an infinity or a date"
    )
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_conversion_that_fails_leaves_the_reasons_of_an_earlier_one(tmp_path: Path) -> None:
    path, output = write(tmp_path / "in.jsonl", XLAM, 3), tmp_path / "out.jsonl"
    convert(read_source("xlam", path), str(path), output)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert "out.jsonl.dropped.txt" in before
    with pytest.raises(DataError, match="no row can be used"):
        convert(read_source("rlla", path), str(path), output)
    with pytest.raises(DataError, match="no such file"):
        convert(read_source("xlam", tmp_path / "none"), "none", output)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before

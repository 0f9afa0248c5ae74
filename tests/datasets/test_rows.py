from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cahl_pl.datasets.rows import get_field, parse_json, read_rows
from cahl_pl.errors import DataError

NAN = 'NaN is not JSON: write null, a number or text such as "NaN" (json.dumps writes it unless allow_nan=False)'


HALF = "a \\ud... escape is half of a surrogate pair, which has no UTF-8: write the whole character, or leave it out"
CUT = "(the text ends too early: is the line or the file cut off?)"


def write(folder: Path, text: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff{"a": "x\u2028y"}\r\n\n {"a": 2} \n')
    rows = list(read_rows(path))
    assert [(row.index, row.value, row.fault) for row in rows] == [
        (0, {"a": "x\u2028y"}, None),
        (1, {"a": 2}, None),
    ]
    assert [row.where for row in rows] == [f"{path}, line 1", f"{path}, line 3"]


def test_json_list(tmp_path: Path) -> None:
    path = write(tmp_path, '\n[{"a": 1},\n\n {"a": [\n2]} , 3\n]\n', "rows.json")
    rows = list(read_rows(path))
    assert [(row.index, row.value) for row in rows] == [(0, {"a": 1}), (1, {"a": [2]}), (2, 3)]
    assert [row.where.removeprefix(str(path)) for row in rows] == [
        ", row 1 (line 2)",
        ", row 2 (line 4)",
        ", row 3 (line 5)",
    ]
    assert list(read_rows(write(tmp_path, "[ ]", "empty.json"))) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice in one object: leave one of them"),
        ('{"a": NaN}', NAN),
        ('{"a": -Infinity}', NAN.replace("NaN", "-Infinity")),
        ('{"a": "\\uD800"}', HALF),
        ('{"a": "\\ud83d\\ude00"}', None),
    ],
)
def test_json_is_read_strictly_and_faults_have_a_place(tmp_path: Path, text: str, fault: str | None) -> None:
    assert [row.fault for row in read_rows(write(tmp_path, f'{{"a": 1}}\n{text}\n{{"a": 2}}'))] == [
        None,
        fault,
        None,
    ]
    # In a list, too, the rows after it are still read.
    rows = list(read_rows(write(tmp_path, f'[{{"a": 1}},\n{text}, {{"a": 2}}]')))
    assert [row.fault for row in rows] == [None, fault, None]
    assert rows[1].where.endswith("rows.jsonl, row 2 (line 2)")


@pytest.mark.parametrize("text", ['{"a": 1', "{'a': 1}", '{"a": 1} {"b": 2}', "9" * 5000, "[" * 100_000])
def test_broken_json_is_an_error_of_its_line(text: str) -> None:
    with pytest.raises(DataError, match=r"^not JSON"):
        parse_json(text)


def test_broken_lines_do_not_hide_the_others(tmp_path: Path) -> None:
    rows = list(read_rows(write(tmp_path, '{"a": 1}\n{"a": \n{"a": 2}\n')))
    assert [row.fault for row in rows] == [None, f"not JSON: Expecting value at character 6 {CUT}", None]
    assert rows[1].where.endswith("line 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": }]', r"rows\.json, row 2 \(line 1\): not JSON: Expecting value"),
        ('[{"a": 1},\n{"a": 2}', r"rows\.json, row 2 \(line 2\): .* is the file complete\?"),
        ('[{"a": 1}] [2]', r"rows\.json: there is more text after the list's end"),
    ],
)
def test_a_broken_list_names_the_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path, text, "rows.json")))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none\.jsonl: there is no such file; download the data set or correct the path"
    ):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="byte 1 is not UTF-8"):
        list(read_rows(write(tmp_path, b"a\xff")))
    with pytest.raises(DataError, match=r"x\.parquet: not a parquet file that can be read .*; download it again"):
        list(read_rows(write(tmp_path, "PAR1 broken", "x.parquet")))


def test_fields_name_what_is_wrong() -> None:
    assert get_field({"a": "x"}, "a", str) == "x"
    with pytest.raises(DataError, match="the field 'a' is missing"):
        get_field({}, "a", str)
    with pytest.raises(DataError, match="the field 'a' must be text, but is a list"):
        get_field({"a": []}, "a", str)
    with pytest.raises(DataError, match="there must be an object with the field 'a', not null"):
        get_field(None, "a", str)


@pytest.mark.parametrize("chunk", [1, 2, 7, 50])
def test_a_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("cahl_pl.datasets.rows._CHUNK", chunk)
    text = '\ufeff [\n12, {"a": "\u00e9 \U0001f600"} ,\n\n"x,]", [3], 1e5, {"k": 1, "k": 2}]\n'
    rows = list(read_rows(write(tmp_path, text, "rows.json")))
    assert [row.value for row in rows] == [12, {"a": "\u00e9 \U0001f600"}, "x,]", [3], 1e5, {"k": 2}]
    assert [row.fault for row in rows] == [None] * 5 + ["the key 'k' appears twice in one object: leave one of them"]
    assert [row.where.rpartition("line ")[2] for row in rows] == ["2)", "2)", "4)", "4)", "4)", "4)"]
    with pytest.raises(DataError, match="byte 3 is not UTF-8"):
        list(read_rows(write(tmp_path, b'["a\xff"]', "bad.json")))
    with pytest.raises(DataError, match="byte 5 is not UTF-8"):
        list(read_rows(write(tmp_path, b'["a",\xc3', "cut.json")))
    with pytest.raises(DataError, match=r"row 2 \(line 1\): not JSON"):
        list(read_rows(write(tmp_path, '["a", {"b": 1', "cut.json")))


def test_lines_say_where_they_start(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff1\n\n\u00e9\n{"a": 2}')
    content = path.read_bytes()
    rows = list(read_rows(path))
    assert [(row.line, content[row.offset :].split(b"\n")[0]) for row in rows] == [
        (1, b"1"),
        (3, "\u00e9".encode()),
        (4, b'{"a": 2}'),
    ]


def test_parquet_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cahl_pl.datasets.rows._BATCH_ROWS", 2)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1, 2, 3, 4, 5]}), tmp_path / "x.parquet")
    rows = list(read_rows(tmp_path / "x.parquet"))
    assert [(row.index, row.value) for row in rows] == [(i, {"a": i + 1}) for i in range(5)]


def test_numbers_beyond_the_largest_are_faults(tmp_path: Path) -> None:
    rows = list(read_rows(write(tmp_path, '{"a": 1.5e2}\n{"a": [-1e999]}')))
    assert [(row.value, row.fault) for row in rows] == [
        ({"a": 150.0}, None),
        (None, "the number -1e999 is out of range: write a smaller one, or text"),
    ]
    with pytest.raises(DataError, match=r"^the number 1e999 is out of range: write a smaller one, or text$"):
        parse_json('[{"default": 1e999}]')


def test_what_is_no_file_of_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows("x" * 300))
    with pytest.raises(DataError, match="this is a folder; give a file in it"):
        list(read_rows(tmp_path))
    with pytest.raises(DataError, match=r"rows\.jsonl: the file is packed by gzip; unpack it first"):
        list(read_rows(write(tmp_path, gzip.compress(b'{"a": 1}'))))


def test_files_that_are_no_rows_are_told_by_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv: this is a table, and rows of tasks are nested: write JSON lines"):
        list(read_rows(write(tmp_path, "a,b\n1,2\n", "rows.csv")))
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: byte 16 is not UTF-8; convert .*iconv -f WINDOWS-1252"):
        list(read_rows(write(tmp_path, b'{"a": 1}\n{"a": "\xe9"}')))
    with pytest.raises(DataError, match="the file is packed by zip; unpack it first"):
        list(read_rows(write(tmp_path, b"PK\x03\x04", "x.jsonl")))
    # a broken first line is its own fault, not the file's
    assert [row.fault is None for row in read_rows(write(tmp_path, '{"a": \n{"a": 1}'))] == [False, True]


def test_structs_of_parquet_lose_the_keys_of_other_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"gold": [{"arguments": {"a": 1}}], "x": None}, {"gold": [{"arguments": {"b": {"c": 2}}}], "x": 1}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [row.value for row in read_rows(tmp_path / "x.parquet")] == rows


def test_parquet_is_read_whatever_it_is_called_and_json_is_not_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "x.jsonl")
    assert [row.value for row in read_rows(tmp_path / "x.jsonl")] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match=r"x\.parquet: this is JSON and not parquet: give its name the suffix \.jsonl"):
        list(read_rows(write(tmp_path, '{"a": 1}\n', "x.parquet")))

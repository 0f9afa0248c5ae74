"""Rows of files: JSON lists, JSON lines and parquet, read strictly and with a place for every fault."""

from __future__ import annotations

import codecs
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cahl_pl.datasets import json_faults
from cahl_pl.datasets.file_kinds import LOOKED_AT, PARQUET, foreign_kind
from cahl_pl.errors import DataError
from cahl_pl.errors.encodings import not_utf8
from cahl_pl.schema.wording import kind_word, word_for

T = TypeVar("T")

NOT_JSON = "not JSON: "
"""Start of messages about text that is not JSON."""
_JSON_SPACE = " \t\r\n"
_ENDS = tuple(_JSON_SPACE + ",]")
_CHUNK = 1 << 20
_TABLES = (".csv", ".tsv", ".xls", ".xlsx")
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class FileRow:
    """Row of a file.

    Attributes:
        index: counted from 0, as in ids; messages say `number`.
        where: the place for messages, such as `dev.jsonl, line 3` or `sft.json, row 2 (line 9)`, both from 1.
        value: the value read.
        fault: why the row is not proper JSON; None if it is.
        line, offset: of JSON lines only: the line, from 1, and the byte at which it starts.
    """

    index: int
    where: str
    value: Any
    fault: str | None
    line: int = 0
    offset: int | None = None

    @property
    def number(self) -> str:
        """Its line or its row, from 1."""
        return f"line {self.line}" if self.line else f"row {self.index + 1}"


def read_rows(path: str | Path) -> Iterator[FileRow]:
    """Yield the rows of a file: parquet by its suffix or how it starts, a JSON list by its first character, else JSON lines.

    The file is read piece by piece, so memory holds a few rows, not the file. JSON is read strictly: a duplicate
    key, NaN, an infinite number or one too large for a float, or text that has no UTF-8 is a row's fault.

    Raises:
        DataError: the file is missing, packed or cannot be read, or a JSON list breaks off.
    """
    path = Path(path).expanduser()
    if os.path.isdir(path):
        raise DataError(f"{path}: this is a folder; give a file in it")
    if not os.path.isfile(path):  # unlike Path.is_file, false for names that are too long
        raise DataError(f"{path}: there is no such file; download the data set or correct the path")
    _refuse_foreign(path)
    if path.suffix == ".parquet" or _start_of(path).startswith(PARQUET):
        yield from _parquet_rows(path)
        return
    if path.suffix.lower() in _TABLES:
        raise DataError(
            f"{path}: this is a table, and rows of tasks are nested: write JSON lines or a JSON list, one object a row"
        )
    try:
        with path.open("rb") as file:
            yield from _list_rows(path, file) if _starts_a_list(file) else _line_rows(path, file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, read as strictly as rows are.

    Raises:
        DataError: what is wrong, without a place.
    """
    value, end, fault = _decode(text, len(text) - len(text.lstrip(_JSON_SPACE)))
    if fault is None and text[end:].strip(_JSON_SPACE):
        fault = f"{NOT_JSON}{json_faults.more_text(text, end)}"
    if fault is not None:
        raise DataError(fault)
    return value


def get_field(row: Any, name: str, kind: type[T]) -> T:
    """Return a row's field, which has to exist and be of type `kind`.

    Raises:
        DataError: naming the field, without the place of the row.
    """
    if not isinstance(row, dict):
        raise DataError(f"there must be an object with the field {name!r}, not {kind_word(row)}")
    if name not in row:
        raise DataError(f"the field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind):
        hint = json_faults.json_in_text(value, kind)
        raise DataError(f"the field {name!r} must be {word_for(kind)}, but is {kind_word(value)}{hint}")
    return value


def _parquet_rows(path: Path) -> Iterator[FileRow]:
    from pyarrow import ArrowException, parquet  # here: the import is slow, and JSON does not need it

    index = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for value in batch.to_pylist():
                    yield FileRow(index, f"{path}, row {index + 1}", _without_nulls(value), None)
                    index += 1
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"{path}: not a parquet file that can be read ({first_line}); download it again") from None


def _without_nulls(value: Any, top: bool = True) -> Any:
    """Return a value of parquet without the null fields of its structs: one struct type has the keys of all rows."""
    if isinstance(value, dict):
        return {key: _without_nulls(item, False) for key, item in value.items() if top or item is not None}
    return [_without_nulls(item, False) for item in value] if isinstance(value, list) else value


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is not data, such as a login page saved under a data file's name."""
    if path.suffix.lower() in _TABLES:
        return
    start = _start_of(path)
    foreign = foreign_kind(str(path), start, path.suffix == ".parquet" or start.startswith(PARQUET))
    if foreign is not None:
        raise DataError(f"{path}: {foreign}")


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LOOKED_AT)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _starts_a_list(file: BinaryIO) -> bool:
    start = b""
    while not start and (chunk := file.read(4096)):
        start = chunk.removeprefix(codecs.BOM_UTF8).lstrip(_JSON_SPACE.encode())
    file.seek(0)
    return start.startswith(b"[")


def _line_rows(path: Path, file: BinaryIO) -> Iterator[FileRow]:
    index = offset = number = 0
    # Lines of bytes end at \n only. JSON strings may hold U+2028 and its kin, at which str.splitlines() would split.
    while line := file.readline():
        number += 1
        start, offset = offset, offset + len(line)
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            start, line = len(codecs.BOM_UTF8), line.removeprefix(codecs.BOM_UTF8)
        if line.strip(_JSON_SPACE.encode()):
            where = f"{path}, line {number}"
            try:
                yield FileRow(index, where, parse_json(line.removesuffix(b"\n").decode()), None, number, start)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: {not_utf8(path, b'', start + error.start)}") from None
            except DataError as error:
                fault = str(error)
                lines = _lines_of_a_value(file, line) if line.lstrip()[:1] in (b"{", b"[") else 1
                if lines > 1:
                    fault = (
                        f"this looks like one value over several lines, from line {number} to {number + lines - 1}: write each "
                        "row on one line, or all of them as one JSON list in a .json file"
                    )
                yield FileRow(index, where, None, fault, number, start)
                for _ in range(lines - 1):  # each would be a separate fault
                    number, offset = number + 1, offset + len(file.readline())
            index += 1


def _lines_of_a_value(file: BinaryIO, first: bytes) -> int:
    """Return `lines_of_a_value`, leaving the file's position unchanged."""
    place = file.tell()
    lines = json_faults.lines_of_a_value(first, file.readline)
    file.seek(place)
    return lines


def _list_rows(path: Path, file: BinaryIO) -> Iterator[FileRow]:
    text = _Window(path, file)
    text.next_character()
    text.move(1)  # the bracket
    index = 0
    while (character := text.next_character()) != "]":
        where = f"{path}, row {index + 1} (line {text.line})"
        value, found, fault = text.value()
        if not found:  # the start of the next row is unknown
            raise DataError(f"{where}: {fault}; correct the row")
        yield FileRow(index, where, value, fault)
        index += 1
        character = text.next_character()
        if character == ",":
            text.move(1)
        elif character != "]":
            raise DataError(f"{where}: not JSON: a comma or ] must follow the row; is the file complete?")
    text.move(1)
    if text.next_character():
        raise DataError(f"{path}: there is more text after the list's end; keep one JSON list in the file")


class _Window:
    """Text of a file from the current position, as much of it as has been needed; `line` counts from 1."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.line = 1
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes = 0
        self._text = ""
        self._at = 0

    def move(self, count: int) -> None:
        end = self._at + count
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def next_character(self) -> str:
        """Return the next character that is not space; empty at the end of the file."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in _JSON_SPACE:
                end += 1
            self.move(end - self._at)
            if end < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> tuple[Any, bool, str | None]:
        """Return the value that starts here, whether one could be read, and its fault."""
        while True:
            value, end, fault = _decode(self._text, self._at)
            # A value at the window's end may continue after it, "12" as "123" or "12.5", and so may one that cannot be read.
            if (end > self._at and self._text[end : end + 1] in _ENDS) or not self._more():
                found = end > self._at
                self.move(end - self._at)
                return value, found, fault

    def _more(self) -> bool:
        # The window doubles, so that a long value is decoded a few times, not once for each chunk.
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            place = self._bytes - pending + error.start
            line = self.line + self._text.count("\n", self._at) + error.object[: error.start].count(b"\n")
            raise DataError(f"{self._path}, line {line}: {not_utf8(self._path, b'', place)}") from None
        if chunk:
            self._bytes += len(chunk)
            self._text, self._at = self._text[self._at :] + text, 0
        return bool(chunk)


def _decode(text: str, start: int) -> tuple[Any, int, str | None]:
    """Return the value that starts there, where it ends, its fault; it ends at `start` if nothing could be read."""
    faults: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            faults.append(json_faults.twice(next(k for k, n in counts.items() if n > 1)))
        return made

    def number(text: str) -> float:
        made = float(text)
        if math.isinf(made):
            faults.append(json_faults.out_of_range(text))
        return made

    decoder = json.JSONDecoder(
        object_pairs_hook=build,
        parse_float=number,
        parse_constant=lambda name: faults.append(json_faults.no_constant(name)),
    )
    try:
        value, end = decoder.raw_decode(text, start)
        if "\\ud" in text[start:end].lower() and not _encodable(value):
            faults.append(json_faults.HALF_A_PAIR)
    except json.JSONDecodeError as error:
        return None, start, f"{NOT_JSON}{json_faults.no_json(text, start, error)}"
    except (ValueError, RecursionError):
        return None, start, "not JSON that can be read: a number is too long or the nesting too deep"
    return value, end, faults[0] if faults else None


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

"""Files that are not data, or data in another form, whatever their name: recognized by their first bytes."""

from __future__ import annotations

from typing import Final

from cahl_pl.errors.encodings import not_utf8, wide_encoding

LOOKED_AT: Final = 1024
"""Number of bytes to examine at the start of a file."""

PARQUET: Final = b"PAR1"
"""First bytes of parquet, whatever the file's name."""
_PACKED: Final = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz"}
_BINARY: Final = {
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream, as the cache of Hugging Face datasets has them",
    b"SQLite format 3\x00": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF model",
    b"\x89PNG": "a picture",
}
_REFUSALS: Final = (
    b"entry not found", b"404: not found", b"404 not found", b"not found", b"access to ", b"repository not found",
    b"unauthorized", b"invalid credentials", b"invalid username or password", b"forbidden", b"access denied", b"error:",
    b"rate limit", b"too many requests",
)  # fmt: skip
"""Starts of servers' error answers in words, in lower case."""
_AGAIN: Final = "download the file again, signed in if it asks for that"


def foreign_kind(path: str, start: bytes, parquet: bool = False) -> str | None:
    """Return, to follow a file's name, what it is if its rows cannot be read, and what to do; None for any other file.

    Args:
        path: the file, for the command that converts it.
        start: its first bytes, `LOOKED_AT` at most.
        parquet: whether it is read as parquet.
    """
    if start.startswith(b"version https://git-lfs"):
        return "this is a pointer of Git LFS and not the file that it stands for: run git lfs pull, or download the file itself"
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return "this is a pointer of git-annex and not the file that it stands for: run git annex get"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text):
        return f"this is a web page (HTML), such as a login or an error, that was saved in the place of the data: {_AGAIN}"
    if text.startswith((b"<?xml", b"<error")):
        return f"this is XML, such as a store's error, and not JSON lines, a JSON list or parquet: {_AGAIN}, or convert it"
    if text.startswith(_REFUSALS):
        line = start.decode(errors="replace").strip().splitlines()[0][:60]
        return f"this is a server's answer ({line!r}) that was saved in the place of the data: {_AGAIN}"
    if parquet and text.startswith((b"{", b"[")):
        return "this is JSON and not parquet: give its name the suffix .jsonl, or .json where it is a list"
    if parquet:
        return None
    if (packed := next((name for mark, name in _PACKED.items() if start.startswith(mark)), None)) is not None:
        return f"the file is packed by {packed}; unpack it first"
    if start.startswith(PARQUET):
        return "this is parquet, and JSON is needed here: write it as such"
    if (kind := next((name for mark, name in _BINARY.items() if start.startswith(mark)), None)) is not None:
        return f"this is {kind}: write its rows as JSON lines, a JSON list or parquet"
    return not_utf8(path, start[:4]) if wide_encoding(start[:4]) is not None else None

"""Make many common mistakes, run the real command on each, and show its messages in a Markdown table.

    python -m tools.quality.show_mistakes

The mistakes are in rows, commands, tool modules and user-defined classes. It exits with 1 if a mistake is not reported in one
sentence with file, line and remedy and with the right exit status, or ends in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cahl_pl.commands import console
from cahl_pl.commands.pipes import reader_may_leave
from tools.quality import mistakes_in_classes, mistakes_in_commands, mistakes_in_rows

_WIDTH = 150


class Told(NamedTuple):
    """Command's report on a mistake: its name, the sentence, the exit status; `right`: whether it is as it should be."""

    name: str
    sentence: str
    status: int
    right: bool


def of_rows(mistake: mistakes_in_rows.Mistake) -> Told:
    """Run `check-data` on a wrong task file, in a separate folder."""
    status, lines = _run(["check-data", mistake.file], {mistake.file: mistake.content})
    found = [line for line in lines if mistake.said in line]
    place = mistake.file if mistake.line is None else f"{mistake.file}, line {mistake.line}"
    right = status != 0 and len(found) == 1 and place in found[0]
    return Told(mistake.name, found[0] if found else " / ".join(lines), status, right)


def of_command(mistake: mistakes_in_commands.Mistake) -> Told:
    """Run a wrong command, in a separate folder."""
    status, lines = _run(mistake.words.split(), mistake.files)
    found = [line for line in lines if mistake.said in line]
    right = status == mistake.status and len(found) == 1
    return Told(mistake.name, found[0] if found else " / ".join(lines), status, right)


def _run(words: Sequence[str], files: Mapping[str, str | bytes]) -> tuple[int, list[str]]:
    """Return the exit status and the printed lines; for an error that is not caught, -1 and its type."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, _within(folder):
        for name, content in files.items():
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                console(words)
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except Exception as error:
                status = -1
                print(f"{type(error).__name__}: {error}")
        return status, [line.strip().replace(f"{folder}{os.sep}", "") for line in out.getvalue().splitlines()]


@contextlib.contextmanager
def _within(folder: str) -> Iterator[None]:
    before, known = Path.cwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, folder)  # for user-defined classes
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                del sys.modules[name]
        os.chdir(before)


def _short(sentence: str) -> str:
    """Return the sentence without parts common to many mistakes, short enough for a table."""
    sentence = re.sub(r"^error: (?:\S+: no row can be used; the first fault: )?", "", sentence)
    sentence = sentence.removesuffix("; check that this is the right file and format")
    return sentence if len(sentence) <= _WIDTH else f"{sentence[: _WIDTH - 3]}..."


@reader_may_leave()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="do not shorten the sentences")
    whole = parser.parse_args(arguments).whole
    told = [of_rows(mistake) for mistake in mistakes_in_rows.MISTAKES]
    told += [of_command(mistake) for mistake in (*mistakes_in_commands.MISTAKES, *mistakes_in_classes.MISTAKES)]
    print("| mistake | what is said | exit |\n| --- | --- | --- |")
    for one in told:
        sentence = one.sentence if whole else _short(one.sentence)
        print(f"| {one.name} | {sentence.replace('|', chr(92) + '|')} | {one.status}{'' if one.right else ' WRONG'} |")
    wrong = sum(not one.right for one in told)
    print(f"\n{len(told)} mistakes, {wrong} not told as they should be", file=sys.stderr)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

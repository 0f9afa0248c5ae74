"""Lines that are written whole or not at all, and folders that cannot be written to."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest

from cahl_pl.errors import ConfigError
from cahl_pl.runs.files import append, check_writable, lock, write_json


@contextmanager
def small_files():
    """No file may grow beyond 1000 bytes: to a program that is a disk without room. Not while pytest writes its own output."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_and_lone_surrogates_replaced(tmp_path):
    path = tmp_path / "lines"
    append(path, "one\n")
    append(path, "tw\ud800o\n")
    assert path.read_text() == "one\ntw?o\n"


def test_half_a_line_is_taken_back(tmp_path):
    path = tmp_path / "lines"
    append(path, "one\n")
    with small_files(), pytest.raises(OSError, match="File too large"):
        append(path, "two" * 1000)
    assert path.read_text() == "one\n"
    append(path, "three\n")
    assert path.read_text() == "one\nthree\n"


def test_json_is_replaced_whole_or_left_as_it_is(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"command": "fit"})
    with small_files(), pytest.raises(OSError, match="File too large"):
        write_json(path, {"command": "test" * 1000})
    assert json.loads(path.read_text()) == {"command": "fit"}


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "runs" / "new")
    assert list((tmp_path / "runs" / "new").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(
        ConfigError, match=r"^the output folder \S*runs/new cannot be written to \(Not a directory\): make"
    ):
        check_writable(tmp_path / "runs" / "new")


def test_a_disk_without_room_is_noticed(tmp_path):
    with small_files(), pytest.raises(ConfigError, match=r"cannot be written to \(File too large\)"):
        check_writable(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigError, match=r"cannot be written to \(Permission denied\)"):
        check_writable(tmp_path)


def test_a_lock_is_held_once_until_it_is_given_back(tmp_path):
    unlock = lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "lock")
    unlock()
    lock(tmp_path / "lock")()


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    program = f"from cahl_pl.runs.files import lock, Path; lock(Path({str(path)!r})); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(BlockingIOError):
            lock(path)
        other.kill()
    lock(path)()

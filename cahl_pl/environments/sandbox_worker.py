"""Worker process of a sandbox: gives up its own rights, imports the toolkit, runs the calls it is sent.

`cahl_pl.environments.sandbox` runs this file by its path, `python -I -B sandbox_worker.py REQUESTS REPLIES` with the
numbers of two pipes. From the package it imports only `cahl_pl.python_tools`: most other modules would import torch.

A request is one line `TOKEN JSON`; its reply is one line with the same token. The first request is the configuration.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, TypeAlias

Functions: TypeAlias = Mapping[str, Callable[..., Any]]
Toolkit: TypeAlias = Callable[[Mapping[str, Any] | None], Functions]
Run: TypeAlias = Callable[[Callable[..., Any], Mapping[str, Any], int], dict[str, Any]]

OPEN_FILES = 64

SYSTEM_FILES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom")
"""Files that the Python installation may need besides itself: shared libraries, time zones."""

# Landlock, uapi/linux/landlock.h. Its system calls have the same numbers on all architectures.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR, FS_TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
FS_CHANGE_DIR = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13  # remove; make directory, file, link; move
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI version -> number of file-system rights that it knows

ALLOWED = """
    access brk chdir clock_getres clock_gettime clock_nanosleep close close_range copy_file_range
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 exit
    exit_group faccessat faccessat2 fadvise64 fallocate fchdir fdatasync flock fstat fstatfs fsync ftruncate futex
    get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid
    getppid getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid ioctl link linkat lseek
    lstat madvise membarrier mincore mkdir mkdirat mmap mprotect mremap msync munmap nanosleep newfstatat open openat
    openat2 pause pipe pipe2 poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getparam sched_getscheduler sched_yield select sendfile set_robust_list set_tid_address setrlimit sigaltstack
    stat statfs statx symlink symlinkat sync_file_range sysinfo time times truncate umask uname unlink unlinkat write
    writev
"""
"""System calls for computing and for files, which Landlock guards. Not: any socket, process, thread, signal or timer; change of
an owner, mode or time stamp, which Landlock does not guard; memory that RLIMIT_AS does not count (memfd, System V)."""

ALLOWED_WITH = {"prlimit64": (0, (0,)), "fcntl": (1, (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032))}
"""System call -> argument, and the values it may have: limits of this process alone; no F_SETOWN, which sends signals."""


def main() -> None:
    """Lock the process, import the toolkit, report the enforced limits, and serve until the pipe closes."""
    requests, replies = os.fdopen(int(sys.argv[1]), "rb"), int(sys.argv[2])
    token, config = read(requests.readline())
    sys.path[:] = config["path"]
    sessions: dict[int, Functions] = {}
    linux = sys.platform == "linux"
    statm = open("/proc/self/statm" if linux else os.devnull, "rb")  # noqa: SIM115  (here, as the lock closes /proc)
    try:
        run = runner(config)  # before the lock: the package may be where tools may not read, and asyncio opens sockets
        enforced = lock(config)
        toolkit = import_toolkit(config["toolkit"], config["python_tools"])
    except BaseException as error:
        send(replies, token, {"error": message(error)[: config["max_characters"]]})
        return
    if linux:  # elsewhere it can be set, but has no effect
        # Only now: libraries such as torch reserve address space by the gigabyte as they are imported.
        limit(resource.RLIMIT_AS, address_space(statm) + config["memory_bytes"])
        enforced["memory"] = "RLIMIT_AS"
    worn_at = address_space(statm) + config["memory_bytes"] // 2
    send(replies, token, {"enforced": enforced})
    for line in requests:
        token, request = read(line)
        limit_cpu(config["call_seconds"])
        reply = answer(request, toolkit, sessions, config, run)
        send(replies, token, {**reply, "worn": address_space(statm) > worn_at or not spare_files()})


def answer(
    request: Mapping[str, Any], toolkit: Toolkit, sessions: dict[int, Functions], config: Mapping[str, Any], run: Run
) -> dict[str, Any]:
    """Return the reply to a request: `start` makes the functions of a session, any other calls one of them."""
    session = request["session"]
    try:
        if "start" in request:
            for dropped in request["drop"]:
                sessions.pop(dropped, None)
                with suppress(RecursionError):  # a tool may have nested directories without end
                    shutil.rmtree(os.path.join(config["folder"], str(dropped)), ignore_errors=True)
        if config["file_bytes"]:
            folder = os.path.join(config["folder"], str(session))
            os.makedirs(folder, exist_ok=True)
            os.chdir(folder)
        if "start" in request:
            sessions[session] = toolkit(request["start"])
            missing = [name for name in request["tools"] if name not in sessions[session]]
            return {"missing": missing, "shared": getattr(toolkit, "shared_state", str)()}
        return run(sessions[session][request["tool"]], request["arguments"], config["max_characters"])
    except BaseException as error:
        return {"error": message(error)[: config["max_characters"] + 1]}


def runner(config: Mapping[str, Any]) -> Run:
    """Return the function that runs calls, with everything that it needs from the package."""
    import asyncio

    from cahl_pl.errors import ArgumentError
    from cahl_pl.python_tools.awaiting import finished
    from cahl_pl.python_tools.results import result_text

    if config["python_tools"]:
        import cahl_pl.python_tools.toolkit  # noqa: F401  (needed by `import_toolkit`)
    loop = asyncio.new_event_loop()  # an `async def` that opens a socket is refused, one that only waits works

    def run(function: Callable[..., Any], arguments: Mapping[str, Any], max_characters: int) -> dict[str, Any]:
        """Return the reply to a call: the result as JSON text, or an error's message; cut to one character above the limit."""
        try:
            result = finished(function(**arguments), loop.run_until_complete)
        except ArgumentError as error:
            return {"error": message(error)[: max_characters + 1], "cause": "type"}
        except BaseException as error:
            return {"error": message(error)[: max_characters + 1]}
        try:
            return {"text": result_text(result)[: max_characters + 1]}
        except TypeError as error:
            return {"error": message(error)[: max_characters + 1]}
        except BaseException:  # the result's own __str__ may raise anything
            return {"error": "the tool's result cannot be written as JSON"}

    return run


def message(error: BaseException) -> str:
    """Return the error's text, or its type if it has none or none that can be read."""
    try:
        return str(error) or type(error).__name__
    except BaseException:
        return type(error).__name__


def read(line: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the token and content of a request."""
    token, _, text = line.partition(b" ")
    return token, json.loads(text)


def send(replies: int, token: bytes, reply: Mapping[str, Any]) -> None:
    """Write a reply, in ASCII, so that it contains no line end and no broken character."""
    data = token + b" " + json.dumps(reply).encode("ascii") + b"\n"
    while data:
        data = data[os.write(replies, data) :]


def import_toolkit(path: str, python_tools: bool) -> Toolkit:
    """Return the function at an import path, or the toolkit of a file or class, as `PythonTools` makes it."""
    if python_tools:
        from cahl_pl.python_tools.toolkit import PythonToolkit

        return PythonToolkit(path)
    module, _, name = path.rpartition(".")
    toolkit = getattr(importlib.import_module(module), name)
    if not callable(toolkit):
        raise TypeError(f"it is not a function, but a {type(toolkit).__name__}")
    return toolkit  # type: ignore[no-any-return]


def lock(config: Mapping[str, Any]) -> dict[str, str]:
    """Give up rights for good.

    Returns:
        Limit -> the mechanism that enforces it. A limit that nothing enforces is left out.
    """
    readable = [*SYSTEM_FILES, sys.prefix, sys.base_prefix, *config["readable"]]
    readable += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    readable += source(config["toolkit"], config["file"])  # before the lock: it lists the folders of sys.path
    enforced = {}
    for name, kind, value in (
        ("open files", "RLIMIT_NOFILE", OPEN_FILES),
        ("file size", "RLIMIT_FSIZE", config["file_bytes"]),
        ("core dumps", "RLIMIT_CORE", 0),
        ("processes", "RLIMIT_NPROC", 0),
    ):
        limit(getattr(resource, kind), value)
        enforced[name] = kind
    if os.geteuid() == 0:
        del enforced["processes"]  # does not bind root
    limit_cpu(config["start_seconds"])
    enforced["CPU time"] = "RLIMIT_CPU"
    if sys.platform != "linux":
        return enforced
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(1, signal.SIGKILL, 0, 0, 0) == 0:  # PR_SET_PDEATHSIG
        enforced["outliving the program"] = "PR_SET_PDEATHSIG"
        if os.getppid() != config["parent"]:  # it died before
            os._exit(1)
    if libc.prctl(38, 1, 0, 0, 0) == 0 and drop_capabilities(libc):  # PR_SET_NO_NEW_PRIVS
        enforced["privileges"] = "capset, PR_SET_NO_NEW_PRIVS"
    version = landlock(libc, readable, os.getcwd() if config["file_bytes"] else None)
    if version:
        enforced["reading files"] = f"Landlock {version}"
    if seccomp():
        enforced |= dict.fromkeys(("network", "processes", "other processes"), "seccomp")
        if version >= 3:  # before, a file that cannot be written can still be emptied
            enforced["writing files"] = f"Landlock {version}, seccomp"  # seccomp guards mode, owner and time
    return enforced


def limit(kind: int, value: int) -> None:
    """Set a limit that cannot be raised again."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def limit_cpu(seconds: float) -> None:
    """Allow this much CPU time from now on, rounded up; usually the parent's clock stops a call."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    total = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (total, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def address_space(statm: BinaryIO) -> int:
    """Return the bytes of address space in use, by /proc/self/statm; 0 if that does not exist."""
    pages = os.pread(statm.fileno(), 64, 0).split()[:1]
    return int(pages[0]) * resource.getpagesize() if pages else 0


def spare_files() -> bool:
    """Return whether calls have left at least half of the open files free."""
    try:
        lowest = os.dup(0)
        os.close(lowest)
    except OSError:
        return False
    return lowest < OPEN_FILES // 2


def source(toolkit: str, file: str | None) -> list[str]:
    """Return the folder of the toolkit's top-level package, or the file of its module; a file of functions itself."""
    if file is not None:
        return [file]
    spec = importlib.util.find_spec(toolkit.partition(":")[0].partition(".")[0])
    if spec is None:
        return []
    return list(spec.submodule_search_locations or [spec.origin or ""])


def drop_capabilities(libc: ctypes.CDLL) -> bool:
    """Drop all capabilities: root becomes an ordinary user who owns root's files."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    return bool(libc.capset(header, (ctypes.c_uint32 * 6)()) == 0)


def landlock(libc: ctypes.CDLL, readable: Iterable[str], writable: str | None) -> int:
    """Restrict files to `readable` and `writable`; TCP and signals too if the kernel can.

    Returns:
        The kernel's version of the Landlock ABI; 0 if there is none.
    """
    version: int = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return 0
    known = (1 << max(count for since, count in FS_RIGHTS.items() if since <= version)) - 1
    # handled_access_fs, handled_access_net, scoped; the kernel takes surplus fields that are zero.
    handled = (ctypes.c_uint64 * 3)(known, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(24), ctypes.c_uint32(0))
    if ruleset < 0:
        return 0
    read = FS_READ_FILE | FS_READ_DIR
    rules = [(path, read) for path in readable] + [("/dev/null", FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE)]
    rules += [(writable, read | FS_WRITE_FILE | FS_TRUNCATE | FS_CHANGE_DIR)] if writable else [(os.getcwd(), read)]
    for path, rights in rules:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not on this system
        if not os.path.isdir(path):
            rights &= FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE
        # struct landlock_path_beneath_attr, packed: allowed_access, parent_fd
        rule = (rights & known).to_bytes(8, sys.byteorder) + folder.to_bytes(4, sys.byteorder)
        libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0)
        os.close(folder)
    applied = libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return version if applied else 0


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def seccomp() -> bool:
    """Let only `ALLOWED` and `ALLOWED_WITH` through; other system calls fail with EPERM. Needs libseccomp 2."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(0x00050000 | 1)))  # SCMP_ACT_ERRNO(EPERM)
    allow, equal = ctypes.c_uint32(0x7FFF0000), 4  # SCMP_ACT_ALLOW, SCMP_CMP_EQ
    rules: list[tuple[str, _Comparison | None]] = [(name, None) for name in ALLOWED.split()]
    rules += [(name, _Comparison(i, equal, v, 0)) for name, (i, values) in ALLOWED_WITH.items() for v in values]
    for name, comparison in rules:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # not on this architecture, or newer than the library: stays forbidden
        count = 0 if comparison is None else 1
        pointer = None if comparison is None else ctypes.byref(comparison)
        if library.seccomp_rule_add_array(context, allow, number, count, pointer) != 0:
            return False
    loaded: bool = library.seccomp_load(context) == 0
    library.seccomp_release(context)
    return loaded


if __name__ == "__main__":
    main()

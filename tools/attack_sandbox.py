"""Attack the sandbox of `cahl_pl.environments.SandboxedEnvironment`, and print what happened as a Markdown table.

    python tools/attack_sandbox.py
    python tools/attack_sandbox.py --without landlock seccomp    # as on a system that lacks them

Every attack is a tool. It says "escaped" if it got what it wanted, and does no harm then. The sandbox's worker imports this
file, so nothing of cahl_pl is imported at its top.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import json
import mmap
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Facts = Mapping[str, Any]
"""What an attacker is told: where to find the program, its files and its sockets."""

Function = TypeVar("Function", bound=Callable[[Any], Any])


class Attack(NamedTuple):
    """An attack.

    Attributes:
        title: what is tried.
        limit: the limit of the sandbox that has to stop it, a key of `enforced`; None: nothing stops it.
        function: tries it.
    """

    title: str
    limit: str | None
    function: Callable[[Facts], Any]


ATTACKS: dict[str, Attack] = {}


def attack(limit: str | None) -> Callable[[Function], Function]:
    """Register an attack; its docstring says what is tried."""

    def register(function: Function) -> Function:
        ATTACKS[function.__name__] = Attack((function.__doc__ or "").rstrip("."), limit, function)
        return function

    return register


def toolkit(state: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """All attacks, and `count`, which counts its calls."""

    def count() -> int:
        state["count"] += 1
        return state["count"]  # type: ignore[no-any-return]

    tools: dict[str, Callable[..., Any]] = {name: each.function for name, each in ATTACKS.items()}
    return {**tools, "count": count}


def libc() -> ctypes.CDLL:
    """The C library, its results checked for errors."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    """The result of a C function, or its error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# Network


@attack("network")
def tcp(facts: Facts) -> str:
    """TCP connection."""
    socket.create_connection(("127.0.0.1", facts["tcp"]), timeout=0.5)
    return "escaped: connected"


@attack("network")
def tcp_server(facts: Facts) -> str:
    """TCP server."""
    socket.create_server(("127.0.0.1", 0))
    return "escaped: listening"


@attack("network")
def udp(facts: Facts) -> str:
    """UDP packet."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", facts["udp"]))
    return "escaped: sent"


@attack("network")
def dns(facts: Facts) -> str:
    """DNS look-up."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.53", 53))  # what getaddrinfo does first
    return "escaped: could ask"


@attack("network")
def unix_socket(facts: Facts) -> str:
    """Unix socket by path."""
    socket.socket(socket.AF_UNIX).connect(facts["unix"])
    return "escaped: connected"


@attack("network")
def abstract_socket(facts: Facts) -> str:
    """Unix socket by abstract name."""
    socket.socket(socket.AF_UNIX).connect("\0" + facts["abstract"])
    return "escaped: connected"


@attack("network")
def socket_pair(facts: Facts) -> str:
    """Socket pair, then another address."""
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", facts["datagram"])
    return "escaped: sent"


@attack("network")
def io_uring(facts: Facts) -> str:
    """Ask for an io_uring, which opens sockets past a filter."""
    parameters = ctypes.create_string_buffer(120)
    checked(libc().syscall(425, 1, parameters))
    return "escaped: has a ring"


# Files


@attack("reading files")
def read_passwd(facts: Facts) -> str:
    """Read /etc/passwd."""
    return "escaped: " + Path("/etc/passwd").read_text()[:10]


@attack("reading files")
def read_secret(facts: Facts) -> str:
    """Read a file of the program's working directory."""
    return "escaped: " + Path(facts["secret"]).read_text()


@attack("reading files")
def read_by_symlink(facts: Facts) -> str:
    """Read that file by a symbolic link."""
    os.symlink(facts["secret"], "link")
    return "escaped: " + Path("link").read_text()


@attack("reading files")
def read_by_hard_link(facts: Facts) -> str:
    """Read that file by a hard link."""
    os.link(facts["secret"], "hard")
    return "escaped: " + Path("hard").read_text()


@attack("reading files")
def list_home(facts: Facts) -> str:
    """List the home directory."""
    return f"escaped: {len(os.listdir(facts['home']))} names"


@attack("reading files")
def read_environ(facts: Facts) -> str:
    """Read /proc/PROGRAM/environ."""
    return f"escaped: {len(Path('/proc', str(facts['pid']), 'environ').read_bytes())} bytes"


@attack("reading files")
def read_mem(facts: Facts) -> str:
    """Read /proc/PROGRAM/mem."""
    with open(f"/proc/{facts['pid']}/mem", "rb"):
        return "escaped: open"


@attack("writing files")
def write_outside(facts: Facts) -> str:
    """Write into the program's folder."""
    Path(facts["folder"], "new").write_text("x")
    return "escaped: written"


@attack("writing files")
def write_shm(facts: Facts) -> str:
    """Write to /dev/shm."""
    path = Path(f"/dev/shm/attack-{os.getpid()}")
    path.write_text("x")
    path.unlink()
    return "escaped: written"


@attack("writing files")
def delete(facts: Facts) -> str:
    """Delete the program's file."""
    os.unlink(facts["victim"])
    return "escaped: deleted"


@attack("writing files")
def truncate(facts: Facts) -> str:
    """Empty the program's file: truncate."""
    os.truncate(facts["victim"], 0)
    return "escaped: emptied"


@attack("writing files")
def open_truncate(facts: Facts) -> str:
    """Empty the program's file: open for reading with O_TRUNC."""
    os.open(facts["victim"], os.O_RDONLY | os.O_TRUNC)
    return "escaped: emptied"


@attack("writing files")
def move(facts: Facts) -> str:
    """Move the program's file away."""
    os.rename(facts["victim"], "mine")
    return "escaped: moved"


@attack("writing files")
def chmod(facts: Facts) -> str:
    """Change the program's file's mode."""
    os.chmod(facts["victim"], 0)
    return "escaped: changed"


@attack("writing files")
def utime(facts: Facts) -> str:
    """Change the program's file's time."""
    os.utime(facts["victim"], (0, 0))
    return "escaped: changed"


@attack("file size")
def huge_file(facts: Facts) -> str:
    """Write a file of 64 MiB."""
    with open("huge", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    return "escaped: written"


@attack("file size")
def memfd(facts: Facts) -> str:
    """Keep 64 MiB in a memfd."""
    os.truncate(os.memfd_create("x"), 64 << 20)
    return "escaped: kept"


@attack("open files")
def open_files(facts: Facts) -> str:
    """Open 10 000 files."""
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(10_000)]
    return f"escaped: {len(files)} open"


@attack("wall time")
def deep_directories(facts: Facts) -> str:
    """Nest directories 1500 deep."""
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    return "made; the sandbox has to remove them"


@attack(None)
def many_files(facts: Facts) -> str:
    """Write 100 files of a byte, where writing is allowed."""
    for i in range(100):
        Path(str(i)).write_bytes(b"x")
    return "escaped: all written"


@attack(None)
def stat(facts: Facts) -> str:
    """Learn size and time of a file outside."""
    return f"escaped: {os.stat(facts['secret']).st_size} bytes"


# Processes and other programs


@attack("processes")
def fork(facts: Facts) -> str:
    """Fork."""
    if os.fork() == 0:
        os._exit(0)
    return "escaped: forked"


@attack("processes")
def fork_bomb(facts: Facts) -> str:
    """Fork bomb."""
    for _ in range(50):  # enough to show it
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
    return "escaped: 50 processes"


@attack("processes")
def run_program(facts: Facts) -> str:
    """Subprocess."""
    return "escaped: " + subprocess.run(["id", "-u"], capture_output=True, text=True).stdout


@attack("processes")
def execute(facts: Facts) -> str:
    """Exec in place of the worker."""
    os.execv("/bin/true", ["true"])


@attack("processes")
def execute_memory(facts: Facts) -> str:
    """Exec of a file in memory."""
    file = os.memfd_create("x")
    os.write(file, Path("/bin/true").read_bytes())
    os.execve(file, ["true"], {})


@attack("processes")
def clone(facts: Facts) -> str:
    """Vfork by system call."""
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if checked(libc().syscall(number, signal.SIGCHLD, 0, 0, 0, 0)) == 0:
        os._exit(0)
    return "escaped: cloned"


@attack("processes")
def thread(facts: Facts) -> str:
    """A thread that outlives its call."""
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    return "escaped: started"


@attack("other processes")
def namespaces(facts: Facts) -> str:
    """New namespaces, to have capabilities again."""
    checked(libc().unshare(0x10000000))  # CLONE_NEWUSER
    return "escaped: made"


@attack("other processes")
def kill_program(facts: Facts) -> str:
    """Kill the program."""
    os.kill(facts["pid"], 0)  # asks whether it could
    return "escaped: could"


@attack("other processes")
def kill_all(facts: Facts) -> str:
    """Kill all processes."""
    os.kill(-1, 0)
    return "escaped: could"


@attack("other processes")
def signal_by_owner(facts: Facts) -> str:
    """Signal the program through a pipe's owner (F_SETOWN)."""
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, facts["pid"])
    fcntl.fcntl(reading, 10, signal.SIGURG)  # F_SETSIG; SIGURG is ignored by default
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writing, b"x")
    return "sent"


@attack("other processes")
def ptrace(facts: Facts) -> str:
    """Ptrace the program."""
    checked(libc().ptrace(0x4206, facts["pid"], 0, 0))  # PTRACE_SEIZE
    return "escaped: attached"


@attack("other processes")
def vm_readv(facts: Facts) -> str:
    """Read the program's memory (process_vm_readv)."""
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(facts["address"], 8)
    checked(libc().process_vm_readv(facts["pid"], vector, 1, remote, 1, 0))
    return "escaped: read"


@attack("other processes")
def limit_program(facts: Facts) -> str:
    """Lower the program's limits (prlimit)."""
    resource.prlimit(facts["pid"], resource.RLIMIT_CORE, resource.prlimit(facts["pid"], resource.RLIMIT_CORE))
    return "escaped: could"


@attack("wall time")
def variables(facts: Facts) -> str:
    """Read a secret from the program's environment variables."""
    return "escaped: " + os.environ["ATTACK_SECRET"]


@attack("wall time")
def modules(facts: Facts) -> str:
    """Find the program's modules loaded."""
    found = [name for name in ("torch", "cahl_pl", "lightning") if name in sys.modules]
    return f"escaped: {found}" if found else "none of the program's is loaded"


# Resources


@attack("memory")
def memory(facts: Facts) -> str:
    """Allocate 4 GiB."""
    return f"escaped: {len(bytearray(4 << 30)) >> 30} GiB"


@attack("memory")
def shared_memory(facts: Facts) -> str:
    """Allocate 4 GiB of shared memory."""
    return f"escaped: {len(mmap.mmap(-1, 4 << 30)) >> 30} GiB"


@attack("other processes")
def system_v(facts: Facts) -> str:
    """Allocate memory that outlives the process (System V)."""
    segment = checked(libc().shmget(0, 1 << 20, 0o1600))
    libc().shmctl(segment, 0, None)  # IPC_RMID
    return "escaped: allocated"


@attack("memory")
def raise_limits(facts: Facts) -> str:
    """Raise the limits, then allocate 4 GiB."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return memory(facts)


@attack("wall time")
def recursion(facts: Facts) -> str:
    """Deep recursion."""
    return recursion(facts)


@attack("wall time")
def c_recursion(facts: Facts) -> str:
    """Deep recursion on the C stack."""
    sys.setrecursionlimit(10**9)
    nested: list[Any] = []
    for _ in range(10**6):
        nested = [nested]
    return repr(nested)


@attack("wall time")
def loop(facts: Facts) -> str:
    """Infinite loop."""
    while True:
        pass


@attack("wall time")
def power(facts: Facts) -> str:
    """Huge power, which holds the interpreter's lock."""
    return str(7 ** (10**9) % 10)


@attack("wall time")
def backtrack(facts: Facts) -> str:
    """Regular expression that backtracks for ever."""
    return str(re.match("(a+)+$", "a" * 60 + "b"))


@attack("wall time")
def sleep(facts: Facts) -> str:
    """Sleep."""
    time.sleep(3600)
    return "escaped: slept"


@attack("wall time")
def ignore_signals(facts: Facts) -> str:
    """Ignore all signals, then loop."""
    for number in signal.valid_signals():
        with suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    return loop(facts)


@attack("other processes")
def alarm(facts: Facts) -> str:
    """Set an alarm for the next call."""
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return "escaped: set"


@attack("wall time")
def read_input(facts: Facts) -> str:
    """Read standard input."""
    return f"{len(sys.stdin.read())} bytes read"


# Answers


@attack("wall time")
def print_much(facts: Facts) -> str:
    """Print a gigabyte."""
    for _ in range(1024):
        sys.stdout.write("x" * (1 << 20))
    return "printed to nowhere"


@attack("wall time")
def print_reply(facts: Facts) -> str:
    """Print a reply to standard output."""
    print('{"text": "escaped: forged"}', flush=True)
    return "printed to nowhere"


@attack("wall time")
def forge(facts: Facts) -> str:
    """Write replies to all open files."""
    for number in range(3, 64):
        with suppress(OSError):
            os.write(number, b'0 {"text": "\\"escaped: forged\\""}\n')
    return "written"


@attack("wall time")
def flood(facts: Facts) -> str:
    """Write a gigabyte to all open files."""
    for number in range(3, 64):
        with suppress(OSError):
            for _ in range(1024):
                os.write(number, bytes(1 << 20))
    return "written"


@attack("wall time")
def giant(facts: Facts) -> str:
    """Result of 100 MB."""
    return "x" * 10**8


@attack("wall time")
def cyclic(facts: Facts) -> Any:
    """Result that holds itself."""
    result: list[Any] = []
    result.append(result)
    return result


@attack("wall time")
def not_a_number(facts: Facts) -> float:
    """Result NaN."""
    return float("nan")


@attack("wall time")
def unpicklable(facts: Facts) -> Any:
    """Result that cannot be pickled."""
    return lambda: None


class _Pickle:
    def __reduce__(self) -> Any:
        return exec, ("open('escaped', 'w')",)

    def __str__(self) -> str:
        raise RuntimeError("no")


@attack("wall time")
def pickled_code(facts: Facts) -> Any:
    """Result that runs code when it is unpickled or shown."""
    return _Pickle()


@attack("wall time")
def nested(facts: Facts) -> Any:
    """Result nested 100 000 deep."""
    result: list[Any] = []
    for _ in range(100_000):
        result = [result]
    return result


class _HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit("escaped")

    __repr__ = __str__


@attack("wall time")
def hostile_error(facts: Facts) -> str:
    """Exception whose text raises SystemExit."""
    raise _HostileError


class _EndlessError(Exception):
    def __str__(self) -> str:
        return loop({})


@attack("wall time")
def endless_error(facts: Facts) -> str:
    """Exception whose text never ends."""
    raise _EndlessError


@attack("wall time")
def leave(facts: Facts) -> str:
    """Call sys.exit."""
    sys.exit(0)


@attack("wall time")
def interrupt(facts: Facts) -> str:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


@attack("wall time")
def leave_at_once(facts: Facts) -> str:
    """Call os._exit."""
    os._exit(0)


@attack("wall time")
def segfault(facts: Facts) -> str:
    """Segmentation fault."""
    return str(ctypes.string_at(0))


@attack("wall time")
def abort(facts: Facts) -> str:
    """Abort."""
    os.abort()


@attack("wall time")
def close_files(facts: Facts) -> str:
    """Close all open files."""
    os.closerange(0, 64)
    return "closed"


@attack(None)
def falsify(facts: Facts) -> str:
    """Change the worker, so that later answers are false."""
    worker: Any = sys.modules["__main__"]
    worker.run = lambda *_: {"text": '"escaped: false"'}
    return "escaped: changed"


# The program


@contextmanager
def targets() -> Iterator[Facts]:
    """Something to attack: files, sockets, an environment variable; adds "escaped" to `facts["harm"]` if it was."""
    signals: list[int] = []
    previous = signal.signal(signal.SIGURG, lambda number, _: signals.append(number))
    os.environ["ATTACK_SECRET"] = "secret"
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp_target,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp_target,
        socket.socket(socket.AF_UNIX) as unix_target,
        socket.socket(socket.AF_UNIX) as abstract_target,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram_target,
    ):
        udp_target.bind(("127.0.0.1", 0))
        abstract = f"attack-{os.getpid()}"
        for target, name in (
            (unix_target, f"{folder}/unix"),
            (abstract_target, "\0" + abstract),
            (datagram_target, f"{folder}/datagram"),
        ):
            target.bind(name)
        unix_target.listen()
        abstract_target.listen()
        Path(folder, "secret").write_text("secret")
        memory = ctypes.create_string_buffer(b"secret")
        yield {
            "pid": os.getpid(),
            "folder": folder,
            "secret": f"{folder}/secret",
            "victim": f"{folder}/victim",
            "home": str(Path.home()),
            "tcp": tcp_target.getsockname()[1],
            "udp": udp_target.getsockname()[1],
            "unix": f"{folder}/unix",
            "datagram": f"{folder}/datagram",
            "abstract": abstract,
            "address": ctypes.addressof(memory),
            "signals": signals,
        }
    signal.signal(signal.SIGURG, previous)
    del os.environ["ATTACK_SECRET"]


def attempt(environment: Any, name: str, facts: Facts) -> tuple[bool, str]:
    """Run one attack between two calls of an innocent tool of the same session.

    Args:
        environment: a `SandboxedEnvironment` of this file's toolkit.
        name: key of `ATTACKS`.
        facts: from `targets`.

    Returns:
        Whether it escaped; what happened.
    """
    from cahl_pl.types import Message, Task, ToolCall, ToolSpec

    facts["signals"].clear()
    victim, new = Path(facts["victim"]), Path(facts["folder"], "new")
    victim.write_text("victim")
    new.unlink(missing_ok=True)
    properties = {"facts": {"type": "object"}}
    tools = (
        ToolSpec(name, "", {"type": "object", "properties": properties}),
        ToolSpec("count", "", {"type": "object"}),
    )
    session = environment.start(Task("attack", (Message("user", "go"),), tools, state={"count": 0}))
    first = session.call(ToolCall("count", {}))
    told = {key: value for key, value in facts.items() if key != "signals"}
    feedback = session.call(ToolCall(name, {"facts": told}))
    last = session.call(ToolCall("count", {}))
    if victim.exists():
        victim.chmod(0o600)
    escaped = feedback.text.startswith('"escaped') or bool(facts["signals"])
    escaped |= not victim.is_file() or victim.read_text() != "victim" or new.exists()
    text = feedback.text.replace(facts["folder"], "FOLDER").replace(str(facts["pid"]), "PID")
    if [first.text, last.text] != ["1", "2"]:
        return True, f"{text}; the call after it: {last.text}"
    return escaped, text


def without(names: list[str]) -> None:
    """Make Landlock or seccomp fail in this process and those it starts, as on a kernel that lacks them."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(0x7FFF0000)))  # SCMP_ACT_ALLOW
    fail = ctypes.c_uint32(0x00050000 | errno.ENOSYS)
    if "landlock" in names:
        number = library.seccomp_syscall_resolve_name(b"landlock_create_ruleset")
        library.seccomp_rule_add_array(context, fail, number, 0, None)
    if "seccomp" in names:
        library.seccomp_rule_add_array(context, fail, library.seccomp_syscall_resolve_name(b"seccomp"), 0, None)
        # struct scmp_arg_cmp: argument 0, SCMP_CMP_EQ, PR_SET_SECCOMP
        comparison = (ctypes.c_uint64 * 3)(4 << 32, 22, 0)
        prctl = library.seccomp_syscall_resolve_name(b"prctl")
        library.seccomp_rule_add_array(context, fail, prctl, 1, comparison)
    library.seccomp_load(context)


def main() -> None:
    """Run all attacks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", nargs="+", choices=["landlock", "seccomp"], default=[])
    arguments = parser.parse_args()
    if arguments.without:
        without(arguments.without)
    from cahl_pl.environments import SandboxedEnvironment

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        environment = SandboxedEnvironment("attack_sandbox.toolkit", call_seconds=1.5, memory_mib=256, file_mib=1)
    user = "root" if os.geteuid() == 0 else "a user without privileges"
    print(f"As {user}. Enforced: {json.dumps(environment.enforced)}")
    print(*(f"\n{warning.message}" for warning in caught), sep="")
    print("\n| attack | limit | stopped | answer of the call |\n| --- | --- | --- | --- |")
    escapes = 0
    with targets() as facts:
        for name, each in ATTACKS.items():
            escaped, text = attempt(environment, name, facts)
            escapes += escaped
            text = text if len(text) <= 100 else text[:97] + "..."
            print(
                f"| {each.title} | {each.limit or 'none'} | {'**no**' if escaped else 'yes'} | `{text}` |", flush=True
            )
    print(f"\n{len(ATTACKS)} attacks, {len(ATTACKS) - escapes} stopped, {escapes} not.")


if __name__ == "__main__":
    from cahl_pl.pipes import reader_may_leave

    with reader_may_leave():
        main()

"""Attack the sandbox of `cahl_pl.environments.SandboxedEnvironment`, and print what happened as a Markdown table.

    python -m tools.robustness.attack_sandbox
    python -m tools.robustness.attack_sandbox --without landlock seccomp    # as on a system that lacks them

Every attack is a tool. It returns "escaped" if it succeeded, and then does no harm. The sandbox's worker imports this file,
so nothing of cahl_pl is imported at its top. The attacks are in attacks_outside.py and attacks_within.py.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.robustness import attacks_outside, attacks_within  # noqa: F401 - they register themselves
from tools.robustness.attacks import ATTACKS, Facts


def toolkit(state: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return all attacks, and `count`, which counts its calls."""

    def count() -> int:
        state["count"] += 1
        return state["count"]  # type: ignore[no-any-return]

    tools: dict[str, Callable[..., Any]] = {name: each.function for name, each in ATTACKS.items()}
    return {**tools, "count": count}


@contextmanager
def targets() -> Iterator[Facts]:
    """Yield targets to attack: files, sockets, an environment variable; `facts["signals"]` lists the signals received."""
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
        Whether it escaped, and what happened.
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
        environment = SandboxedEnvironment(
            "tools.robustness.attack_sandbox.toolkit", call_seconds=1.5, memory_mib=256, file_mib=1
        )
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
    from cahl_pl.commands.pipes import reader_may_leave

    with reader_may_leave():
        main()

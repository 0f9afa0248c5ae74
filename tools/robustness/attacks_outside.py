"""Attacks on targets outside the sandbox: the network, files, processes and other programs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tools.robustness.attacks import Facts, attack, checked, libc

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
    os.kill(facts["pid"], 0)  # only checks whether it could
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
    found = [name for name in ("torch", "lightning", "cahl_pl.types", "cahl_pl.environments") if name in sys.modules]
    return f"escaped: {found}" if found else "none of the program's is loaded"

"""Print what a bug report needs to know of this machine: versions, devices, threads and memory. The network is not used.

    python -m cahl_pl env

Each package is listed with the versions that cahl-pl allows; `<-` marks one that is missing or outside them.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import cahl_pl
from cahl_pl.commands import verb_parser
from cahl_pl.startup.threads import SETTINGS

GIB = 2**30
FOLDER = Path(cahl_pl.__file__).parent


def requirements() -> dict[str, list[Requirement]]:
    """Return the package's requirements: extra -> requirements, "" for those of every installation.

    They are read from the checkout if the code is in one: metadata of an editable installation can be outdated.
    """
    project = FOLDER.parent / "pyproject.toml"
    texts: list[tuple[str, str]] = []
    if project.is_file():
        content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        texts += [("", text) for text in content["dependencies"]]
        texts += [(extra, text) for extra, needs in content["optional-dependencies"].items() for text in needs]
    else:
        for text in requires("cahl-pl") or []:
            text, _, marker = text.partition(";")
            texts.append((marker.partition("extra == ")[2].strip("\"' "), text))
    found: dict[str, list[Requirement]] = {"": []}
    for extra, text in texts:
        found.setdefault(extra, []).append(Requirement(text))
    return found


def package_line(requirement: Requirement) -> str:
    """Return a package's name, its installed version, the allowed ones, and a mark if it is not among them."""
    allowed = str(requirement.specifier) or "any"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"  {requirement.name:16} {'-':14} {allowed}  <- missing"
    fits = requirement.specifier.contains(installed, prereleases=True)
    return f"  {requirement.name:16} {installed:14} {allowed}{'' if fits else '  <- outside'}"


def missing_extras() -> dict[str, list[str]]:
    """Return extra -> its packages that are not installed, for each incomplete extra."""
    found: dict[str, list[str]] = {}
    for extra, needs in requirements().items():
        for requirement in needs if extra else ():
            try:
                version(requirement.name)
            except PackageNotFoundError:
                found.setdefault(extra, []).append(requirement.name)
    return found


def memory() -> tuple[float, float] | None:
    """Return total and available memory in GiB; None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = {name: int(rest.split()[0]) / 2**20 for name, _, rest in (line.partition(":") for line in lines)}
        return values["MemTotal"], values["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def torch_lines() -> Iterator[str]:
    """Yield torch's build, its devices and its threads."""
    try:
        import torch
    except Exception as error:  # a missing system library, and the like
        yield f"torch cannot be imported: {type(error).__name__}: {error}"
        return
    yield f"torch build: {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    if not torch.cuda.is_available():
        yield "CUDA devices: none"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(i)
        capability = ".".join(map(str, torch.cuda.get_device_capability(i)))
        name = torch.cuda.get_device_name(i)
        yield f"CUDA device {i}: {name}, capability {capability}, {whole / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    yield f"torch threads: {torch.get_num_threads()}, between operations {torch.get_num_interop_threads()}"


def model_line() -> str:
    """Return a line on whether the model that ships with the package can be loaded, and how long it took."""
    start = time.perf_counter()
    try:
        import torch

        from cahl_pl.policy.config import PolicyConfig
        from cahl_pl.policy.loading import load_base, read_config
        from cahl_pl.startup.library_warnings import quiet_libraries

        quiet_libraries()
        config = PolicyConfig(model="toolworld", quantization="none")
        load_base(config, read_config(config), torch.device("cpu"))
    except Exception as error:
        return f"shipped model: cannot be loaded: {type(error).__name__}: {error}"
    return f"shipped model: loads ({time.perf_counter() - start:.1f} s, with the libraries)"


def main(arguments: list[str]) -> None:
    """Print the report line by line, so that a hang is visible."""
    verb_parser("env", __doc__).parse_args(arguments)
    for line in _lines():
        print(line, flush=True)


def _lines() -> Iterator[str]:
    yield f"cahl_pl {cahl_pl.__version__} in {FOLDER}"
    yield f"Python {platform.python_version()} in {sys.prefix}"
    yield f"system: {platform.platform()}"
    yield "packages: installed, allowed"
    yield from map(package_line, requirements()[""])
    for extra, names in missing_extras().items():
        yield f"extra {extra} is not whole: {', '.join(names)} not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"processor: {platform.machine()}, {os.cpu_count()} cores, {cores} of them for this process"
    for name in ("OMP_NUM_THREADS", *SETTINGS):
        yield f"{name}: {os.environ.get(name, 'not set')}"
    found = memory()
    yield "memory: not known" if found is None else f"memory: {found[0]:.1f} GiB, {found[1]:.1f} GiB available"
    disk = shutil.disk_usage(".")
    yield f"disk of {Path.cwd()}: {disk.total / GIB:.1f} GiB, {disk.free / GIB:.1f} GiB free"
    yield from torch_lines()
    yield model_line()

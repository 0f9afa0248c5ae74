"""The trainer on a device: the CPU, a real GPU, or an emulated one.

`CAHL_TEST_DEVICE` says which: `cpu`, `cuda` or `emulated`. The emulated device is CUDA's semantics without a GPU: tensors
that say that they are on `cuda` and refuse what CUDA and NCCL refuse. It is no part of this repository; it is looked for
beside it, or in `$CAHL_FAKE_CUDA`, and needs g++.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cpu", "emulated", "cuda")


@pytest.fixture(scope="session")
def device() -> str:
    """The device of this session."""
    name = os.environ.get("CAHL_TEST_DEVICE", "emulated")
    assert name in NAMES, f"CAHL_TEST_DEVICE is {name!r}: give one of {NAMES}"
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("CAHL_TEST_DEVICE is cuda, and there is no CUDA device")
    return name


@pytest.fixture(scope="session")
def emulator(device, tmp_path_factory) -> str:
    """A folder with the emulated device, its device guard built; `-` where another device is tested."""
    if device != "emulated":
        return "-"
    source = Path(os.environ.get("CAHL_FAKE_CUDA", ROOT.parent / "shared" / "tools" / "fake_cuda"))
    if not (source / "fakecuda.py").is_file():
        pytest.skip(f"no emulated device: set CAHL_FAKE_CUDA to its folder (there is no {source / 'fakecuda.py'})")
    if shutil.which("g++") is None:
        pytest.skip("the emulated device needs g++ for its device guard")
    folder = tmp_path_factory.mktemp("emulator") / "fake_cuda"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch_folder = Path(spec.origin).parent
    include = [f"-I{torch_folder / 'include' / sub}" for sub in ("", "torch/csrc/api/include")]
    library = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder / 'lib'}"]
    built = ["g++", "-O1", "-std=c++20", "-fPIC", "-shared", "guard.cpp", "-o", "libguard.so", *include, *library]
    subprocess.run(built, cwd=folder, check=True, timeout=250)
    return str(folder)


@dataclass
class Run:
    """Processes that carry out commands on one kind of device, and the folder that they write into."""

    folder: Path
    processes: list[subprocess.Popen]

    def finish(self) -> Path:
        """Wait for the end; the folder."""
        outputs = [process.communicate(timeout=3000)[0] for process in self.processes]
        for process, output in zip(self.processes, outputs, strict=True):
            assert process.returncode == 0, output[-6000:]
        (self.folder / "output.txt").write_text(outputs[0])
        return self.folder


@pytest.fixture(scope="session")
def start(tiny_model, tmp_path_factory):
    """Starts commands on so many devices of a kind."""
    running: list[subprocess.Popen] = []

    def begin(commands: list[list[str]], emulator: str, accelerator: str, devices: int) -> Run:
        folder = tmp_path_factory.mktemp(f"{accelerator}{devices}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CAHL_TRACEBACK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        trainer = {"accelerator": accelerator, "devices": devices}
        trainer["strategy"] = "adapter_ddp" if devices > 1 else "auto"
        (folder / "device.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
        run = Run(folder, [])
        for rank in range(devices):
            own = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": devices, "MASTER_ADDR": "127.0.0.1"}
            own["MASTER_PORT"] = port  # as a launcher of several processes says it
            words = [str(Path(__file__).with_name("child.py")), emulator, str(devices), json.dumps(commands)]
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env={**environment, **({key: str(value) for key, value in own.items()} if devices > 1 else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            run.processes.append(process)
            running.append(process)
        return run

    yield begin
    for process in running:
        process.kill()
        process.wait()

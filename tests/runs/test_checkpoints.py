"""A checkpoint is read wherever it was written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from cahl_pl.runs.checkpoints import is_checkpoint, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def of_a_gpu(tmp_path, monkeypatch) -> Path:
    """A checkpoint whose tensors say that they were on a GPU."""
    path = tmp_path / "step-000001.ckpt"
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"policy_version": {}, "policy_config": {}, "state_dict": {"a": torch.arange(3.0)}}, path)
    return path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to read it to")
def test_the_checkpoint_of_a_gpu_is_read_without_one(of_a_gpu):
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(of_a_gpu, weights_only=True)
    assert read_checkpoint(of_a_gpu)["state_dict"]["a"].tolist() == [0, 1, 2]
    assert is_checkpoint(of_a_gpu)


def test_no_file_is_read_to_the_device_that_it_came_from():
    """`torch.load` without `map_location` fails where that device is not, and fills its memory where it is."""
    bare = []
    for path in [path for folder in ("cahl_pl", "callbacks", "tools") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            loads = isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
            if loads and "map_location" not in {keyword.arg for keyword in node.keywords}:
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert bare == []

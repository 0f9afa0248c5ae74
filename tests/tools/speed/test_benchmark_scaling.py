"""What the benchmark of growth says, and that its steps are steps."""

from __future__ import annotations

import json
import math

import pytest
import torch
import transformers

from tools.speed import benchmark_scaling


@pytest.fixture
def tool():
    return benchmark_scaling


@pytest.fixture
def folder(tool, tmp_path, monkeypatch):
    """The benchmark's model, made small."""
    config = transformers.Qwen2Config
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setattr(
        transformers, "Qwen2Config", lambda **values: config(**{**values, **small, "num_key_value_heads": 2})
    )
    tool.make_model(tmp_path / "model")
    return tmp_path / "model"


def test_the_exponent_is_that_of_a_line_through_logarithms(tool):
    assert tool.fit([1, 2, 4], [3, 12, 48]) == pytest.approx((2, 0, 2), abs=1e-6)
    # in base 2: x = 0, 1, 2 and y = 0, 1, 3; slope 3/2, squared residuals 1/6 over 1 degree of freedom and 2 of x
    assert tool.fit([1, 2, 4], [1, 2, 8]) == pytest.approx((1.5, math.sqrt(1 / 12), 2))
    assert all(map(math.isnan, tool.fit([1, 2, 4], [0, 1, 2])))


def test_each_axis_is_doubled_alone(tool):
    base = tool.Point(4, 256, 3, 32)
    assert tool.series(base, "group_size", 3) == [base, tool.Point(4, 256, 6, 32), tool.Point(4, 256, 12, 32)]
    assert base.shape == tool.Shape([256] * 4, 3, 32)


def test_the_peak_begins_again(tool):
    held = b"x" * 2**27
    del held
    assert tool.resident("VmHWM") > tool.resident("VmRSS") + 2**26
    tool.forget_peak()
    assert tool.resident("VmHWM") < tool.resident("VmRSS") + 2**26


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_steps_learn_and_repeat_by_their_seed(tool, folder, adapter):
    def run(seed):
        steps = tool.Steps(folder, tool.Shape([20, 20], 3, 4), adapter, seed)
        before = [p.clone() for p in steps.policy.parameters_of("planner")]
        groups = steps.sample()
        steps.update(groups)
        after = steps.policy.parameters_of("planner")
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        assert steps.policy.version == {"planner": 1, "executor": 0}
        return [[ids.tolist() for ids in group.completion_ids] for group in steps.sample()]

    first = run(0)
    assert [len(group) for group in first] == [3, 3]
    assert run(0) == first
    assert run(1) != first


def test_a_process_measures_time_or_memory(tool, folder, capsys):
    point = [2, 20, 2, 3]
    tool.main(["--worker", json.dumps([str(folder), point, "lora", 0, 2])])
    seconds = json.loads(capsys.readouterr().out)
    assert list(seconds) == ["sampling", "update", "step"]
    for sampling, update, step in zip(*seconds.values(), strict=True):
        assert 0 < sampling < step
        assert step == pytest.approx(sampling + update)
    assert len(seconds["step"]) == 2
    tool.main(["--worker", json.dumps([str(folder), point, "alora", 0, 0])])
    memory = json.loads(capsys.readouterr().out)
    assert memory["step"] == max(memory["sampling"], memory["update"])
    assert list(memory) == ["sampling", "update", "step"]


def test_medians_exponents_plot_and_file(tool, tmp_path, monkeypatch, capsys):
    calls = []

    def measure(folder, point, options, memory):
        assert (folder / "config.json").exists()
        calls.append((point, memory))
        if memory:
            return {"sampling": 2**20 * point.length, "update": 2**21, "step": 2**20 * point.length}
        noise = 5 * (sum(p == point and not m for p, m in calls) == 2)  # the second repeat is no median
        step = point.length**2 * point.prompts / 100 + noise
        return {"sampling": [1.0], "update": [step - 1], "step": [step]}

    monkeypatch.setattr(tool, "make_model", lambda folder: (folder / "config.json").touch())
    monkeypatch.setattr(tool, "measure", measure)
    out, picture = tmp_path / "new" / "scaling.json", tmp_path / "new" / "scaling.png"
    small = ["--prompts", "2", "--length", "10", "--group", "2", "--new", "4", "--points", "3"]
    tool.main([*small, "--axes", "length", "prompts", "--out", str(out), "--plot", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lora, from 2 prompts of 10 tokens, G 2, 4 new tokens"
    assert lines[2].startswith("| prompt length | sampling, s | update, s | step, s | sampling, MiB | update, MiB |")
    assert lines[4] == "| 10 | 1.00 | 1.00 | 2.00 | 10 | 2 | 10 |"
    assert lines[6] == "| 40 | 1.00 | 31.00 | 32.00 | 40 | 2 | 40 |"
    assert lines[7].split(" | ")[1:7:2] == ["0.00 +- 0.00", "2.00 +- 0.00", "0.00 +- 0.00"]
    assert lines[8].split(" | ")[3:5] == ["2.00", "1.00"]
    assert lines[10].startswith("| prompts | ")
    assert lines[15].split(" | ")[3] == "1.00 +- 0.00"
    assert len(calls) == 5 * (1 + 3)  # the base is measured once, though it is on both axes
    content = json.loads(out.read_text())
    assert content["exponents"]["length"]["step, s"]["exponent"] == pytest.approx(2)
    assert content["points"][0]["values"]["s"]["step"] == 2
    assert len(content["points"][0]["seconds"]) == 3
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_two_points_are_refused(tool, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--points", "2"])
    assert "give 3 or more, not 2" in capsys.readouterr().err

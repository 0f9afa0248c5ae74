"""Operations against formulas and against torch's own counter; the profile's groups; the tables."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tools.speed import profile_step

LAYERS, HIDDEN, INNER, RANK, VOCABULARY = 2, 32, 64, 16, 32_000


@pytest.fixture
def tool(monkeypatch):
    module = profile_step
    monkeypatch.setattr(module.peak_rate, "__defaults__", (*module.peak_rate.__defaults__[:1], (64,)))
    return module


@pytest.fixture
def small_model(monkeypatch):
    """Makes make_model's model small."""
    config = transformers.Qwen2Config
    small = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(transformers, "Qwen2Config", lambda **values: config(**{**values, **small, **heads}))


@pytest.fixture
def folder(tool, small_model, tmp_path):
    tool.make_model(tmp_path)
    return tmp_path


def test_counted_operations_are_those_of_the_formulas(tool, folder):
    prompts, length, group, new = 3, 70, 2, 5
    counter = tool.Operations()
    tool.run_ours(folder, tool.Shape([length] * prompts, group, new), "lora", 0, [counter.watch])
    base = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER)  # weights that a token is multiplied with
    lora = LAYERS * RANK * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
    samples = prompts * group
    sampled = prompts * length + samples * (new - 1)  # the last token is not run
    # of a prompt all but the last token leave the last layer with keys and values: after q, k and v it is not run
    unread = prompts * (length - 1)
    unread_base = HIDDEN**2 + 3 * HIDDEN * INNER
    unread_lora = RANK * (2 * HIDDEN + 3 * (HIDDEN + INNER))
    sampling = counter.counted["sampling"]
    assert sampling["base linear layers"] == 2 * (sampled * base - unread * unread_base)
    assert sampling["LoRA"] == 2 * (sampled * lora - unread * unread_lora)
    assert sampling["output layer"] == 2 * HIDDEN * VOCABULARY * (prompts + samples * (new - 1))
    update = counter.counted["update"]
    # nothing before the first layer's q, k and v learns: no gradient goes through them; the last layer's q is made of
    # every token, and only those that are read send a gradient back through it
    unlearnt_base, unlearnt_lora = 2 * unread_base + HIDDEN**2, 3 * unread_lora + 2 * RANK * 2 * HIDDEN
    assert update["base linear layers"] == 2 * (sampled * (2 * base - 3 * HIDDEN**2) - unread * unlearnt_base)
    assert update["LoRA"] == 2 * (sampled * (3 * lora - 3 * HIDDEN * RANK) - unread * unlearnt_lora)
    assert update["output layer"] == 2 * 2 * HIDDEN * VOCABULARY * samples * new


@pytest.mark.parametrize("adapter", ["lora", "alora"])
def test_products_are_those_that_torch_counts(tool, folder, adapter):
    steps, counter = tool.Steps(folder, tool.Shape([20, 30], 2, 4), adapter), tool.Operations()
    # of sampling: FlopCounterMode fails on a gradient that is taken within a forward pass, as the update does
    with FlopCounterMode(display=False) as theirs, counter.watch("sampling", steps.policy.lm):
        steps.sample()
    ours = counter.counted["sampling"]
    products = sum(ours[part] for part in tool.PARTS if part != "attention")
    # not the rotary angles, a bmm before transformers 5.19, nor attention, whose kernel on the CPU torch counts since 2.15
    counted = theirs.get_flop_counts()["Global"]
    assert products == sum(counted.get(product, 0) for product in (torch.ops.aten.mm, torch.ops.aten.addmm)) > 0
    assert ours["attention"] > 0


def test_rows_of_a_weight_and_sums_in_place_count_too(tool):
    output, lora, base = torch.zeros(6, 2), torch.zeros(1, 2), torch.zeros(3, 2)
    named = [("lora_A.weight", lora), ("q_proj.weight", base), ("lm_head.weight", output)]
    model = SimpleNamespace(
        named_parameters=lambda: named,
        get_base_model=lambda: SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=output)),
    )
    counter = tool.Operations()
    with counter.watch("update", model):
        torch.zeros(5, 2).addmm_(torch.zeros(5, 4), output[2:])
        torch.zeros(5, 2) @ base.t()
        torch.zeros(5, 2).t() @ torch.zeros(5, 3)
    assert counter.counted["update"] == {
        "output layer": 2 * 5 * 4 * 2,
        "base linear layers": 2 * 5 * 2 * 3,
        "LoRA": 2 * 2 * 5 * 3,
    }


def test_attention_counts_the_pairs_that_are_seen(tool):
    query, key = (1, 2, 3, 4), (1, 2, 3, 4)
    assert tool.attention_operations(query, key, causal=True, backward=False) == 2 * 2 * 2 * 6 * 4
    assert tool.attention_operations(query, (1, 2, 5, 4), causal=False, backward=False) == 2 * 2 * 2 * 15 * 4
    assert tool.attention_operations(query, key, causal=False, backward=True) == 2 * 5 * 2 * 9 * 4


@pytest.mark.parametrize(
    ("names", "shapes", "group"),
    [
        (["aten::addmm", "aten::linear"], [[4], [3, 4]], "matrix products"),
        (["aten::addmm_"], [[3, 4]], "matrix products"),
        (["aten::mm", "MmBackward0"], [[3, 100], [100, 4]], "matrix products"),
        (["aten::_softmax", "aten::_scaled_dot_product_attention_math"], [[3, 3]], "attention"),
        (["aten::_scaled_dot_product_flash_attention_for_cpu_backward"], [], "attention"),
        (["aten::mul_"], [[3, 4], []], "element-wise, reductions"),
        (["aten::copy_", "aten::contiguous"], [[3, 4]], "copies, indexing"),
        (["aten::exp"], [[3, 100]], "vocabulary"),
        (["aten::index"], [[3, 100], []], "vocabulary"),
        (["aten::_log_softmax_backward_data"], [[3, 100]], "vocabulary"),
        (["aten::mul_", "Optimizer.step#AdamW.step"], [[100]], "optimiser"),
        (["aten::view"], [[3, 100]], "the rest"),
        (["autograd::engine::evaluate_function: MmBackward0"], [], "the rest"),
        (["MmBackward0"], [], "the rest"),
        (["_TokenLogprobs"], [], "outside any op"),
    ],
)
def test_groups(tool, names, shapes, group):
    event = None
    for name in reversed(names):
        event = SimpleNamespace(name=name, cpu_parent=event, input_shapes=shapes)
    assert tool.group_of(event, 100) == group


def test_bound_share_and_rates_stand_in_the_tables(tool):
    ops = {group: {} for group in tool.GROUPS} | {"matrix products": {"aten::mm": 4.0}, "outside any op": {"x": 1.0}}
    profiled = {"seconds": 5.0, "calls": {"matrix products": 7}, "groups": ops}
    result = {
        "operations": {
            "sampling": {"base linear layers": 8e9, "attention": 2e9},
            "update": {"LoRA": 30e9},
        },
        "peak": 10e9,
        "seconds": {"sampling": [3.0, 4.0, 90.0], "update": [6.0]},
        "profile": {"sampling": profiled, "update": profiled},
        "machine": {"threads": 2},
    }
    rows = tool.summary(result)
    assert rows["all, GFLOP"] == {"sampling": 10, "update": 30, "step": 40}
    assert rows["lower bound, s"] == {"sampling": 1, "update": 3, "step": 4}
    assert rows["bound / measured, %"] == {"sampling": 25, "update": 50, "step": 40}
    lines = tool.tables(result).splitlines()
    assert "| bound / measured, % | 25 | 50 | 40 |" in lines
    assert "| matrix products | 4.000 | 80.0 | 7 | mm 80.0 % | 4.000 | 80.0 | 7 | mm 80.0 % |" in lines
    assert "Matrix products but attention's, sampling: 2.0 GFLOP/s" in lines
    assert lines[-1] == "Peak: 10.0 GFLOP/s with 2 threads"


def test_a_run_profiles_everything(tool, small_model, tmp_path, capsys):
    out = tmp_path / "new" / "profile.json"
    tool.main(["--prompts", "2", "--length", "20", "--group", "2", "--new", "4", "--steps", "2", "--out", str(out)])
    assert capsys.readouterr().out.startswith("lora: 2 prompts of 20 to 20 tokens, G 2, 4 new tokens\n\n| | sampling |")
    result = json.loads(out.read_text())
    assert result["peak"] > 0
    for stage in ("sampling", "update"):
        assert len(result["seconds"][stage]) == 2
        profiled = result["profile"][stage]
        seconds = {group: sum(ops.values()) for group, ops in profiled["groups"].items()}
        assert sum(seconds.values()) == pytest.approx(profiled["seconds"])
        assert all(value > 0 for group, value in seconds.items() if group != "optimiser")  # nothing counts twice
        assert (seconds["optimiser"] > 0) == (stage == "update")


def test_stages_of_trls_trainer(tool, monkeypatch, tmp_path):
    seen = []

    class Trainer:
        model = "the model"

        def __init__(self, folder, shape, steps):
            self.steps = steps

        def _prepare_inputs(self, batch):
            seen.append("samples")
            return batch + 1

        def add_callback(self, callback):
            self.callback = callback

        def train(self):
            for _ in range(self.steps):
                self.callback.on_step_begin()
                assert self._prepare_inputs(1) == 2
                seen.append("updates")
                self.callback.on_step_end()

    class Watch:
        def __init__(self, number):
            self.number = number

        def __call__(self, stage, model):
            assert model == "the model"
            self.stage = stage
            return self

        def __enter__(self):
            seen.append(f"{self.number} {self.stage}")

        def __exit__(self, *error):
            seen.append("end")

    monkeypatch.setattr(tool, "trl_trainer", Trainer)
    tool.run_trl(tmp_path, tool.Shape([9], 2, 4), [Watch(0), Watch(1)])
    steps = [[f"{i} sampling", "samples", "end", f"{i} update", "updates", "end"] for i in range(2)]
    assert seen == steps[0] + steps[1]


@pytest.mark.parametrize("words", [["--processor-time"], ["--system", "trl", "--adapter", "alora"]])
def test_what_does_not_go_together_is_refused(tool, words, monkeypatch, capsys):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(SystemExit, match="2"):
        tool.main(words)
    assert ": set OMP_NUM_THREADS=1" in (err := capsys.readouterr().err) or ": leave --adapter out" in err

"""Memory of the base and the adapters, counted by hand, and the budget's warning."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from cahl_pl.callbacks import FourBitMemory
from cahl_pl.callbacks.memory import weights_gib
from cahl_pl.engines import TransformersEngine
from cahl_pl.errors import ConfigError
from cahl_pl.memory_plan import GIB
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.rollout.config import RolloutConfig


def policy(quantization=None, lm=None):
    return SimpleNamespace(config=PolicyConfig(quantization=quantization), lm=lm)


class Adapted(nn.Module):
    """A base of 64 x 32 weights and 8 more, with two adapters of 10 weights each."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(32, 64, bias=False)
        self.norm = nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
        self.lora_A = nn.ParameterDict({role: nn.Parameter(torch.zeros(10)) for role in ("planner", "executor")})


class Module(LightningModule):
    """Loads its policy where the real module does, and notes what it was then asked for."""

    def __init__(self):
        super().__init__()
        self.policy = policy()

    def configure_model(self):
        self.loaded_as = self.policy.config.quantization
        self.policy.lm = Adapted()

    def configure_optimizers(self):
        return torch.optim.SGD(self.policy.lm.parameters(), lr=0.1)

    def training_step(self, batch):
        return self.policy.lm.base.weight.sum()

    def train_dataloader(self):
        return [1, 2]


def test_full_precision_weights():
    sizes = {tag: round(value * GIB) for tag, value in weights_gib(Adapted()).items()}
    assert sizes == {
        "memory/base_gib": 4 * 64 * 32 + 2 * 8,
        "memory/base_bf16_gib": 2 * (64 * 32 + 8),
        "memory/saved_gib": -2 * 64 * 32,
        "memory/adapters_gib": 2 * 10 * 4,
    }


def test_nf4_weights():
    bnb = pytest.importorskip("bitsandbytes")
    model = Adapted()
    weight = bnb.nn.Params4bit(
        model.base.weight.data, requires_grad=False, quant_type="nf4", blocksize=64, compress_statistics=True
    )
    model.base.weight = weight.to("cpu")
    state = model.base.weight.quant_state
    sizes = {tag: round(value * GIB) for tag, value in weights_gib(model).items()}
    packed = 64 * 32 // 2
    # double quantisation: a byte a block of 64, one offset, one float for the only block of 256 such bytes,
    # and the two tables that codes are looked up in: 16 floats and 256 floats
    constants = 64 * 32 // 64 + 4 + 4 + 16 * 4 + 256 * 4
    assert state.nested
    assert sizes["memory/base_gib"] == packed + constants + 2 * 8
    assert sizes["memory/base_bf16_gib"] == 2 * (64 * 32 + 8)
    assert sizes["memory/saved_gib"] == 2 * 64 * 32 - packed - constants
    assert sizes["memory/adapters_gib"] == 80


def test_sets_the_quantization_before_the_model_is_built_and_logs(trainer):
    module = Module()
    real = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=trainer.loggers,
        callbacks=[FourBitMemory()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    real.fit(module)
    assert module.loaded_as == "nf4"
    scalars = trainer.scalars()
    assert scalars["memory/adapters_gib"] == [(0, pytest.approx(80 / GIB))]
    assert [x for x, _ in scalars["memory/peak_gib"]] == [1, 2]
    assert all(0.01 < value < 100 for _, value in scalars["memory/peak_gib"])


@pytest.mark.parametrize("chosen", ["none", "nf4"])
def test_what_the_policy_is_told_holds(chosen):
    module = SimpleNamespace(policy=policy(chosen))
    FourBitMemory(quantization="nf4" if chosen == "none" else "none").setup(None, module, "fit")
    assert module.policy.config.quantization == chosen


def test_refuses_a_base_that_is_loaded_otherwise():
    module = SimpleNamespace(policy=policy(None, lm=Adapted()))
    with pytest.raises(RuntimeError, match="already loaded without"):
        FourBitMemory().setup(None, module, "fit")
    FourBitMemory(quantization="none").setup(None, module, "fit")
    FourBitMemory().setup(None, SimpleNamespace(policy=policy("nf4", lm=Adapted())), "test")


def test_warns_once_above_the_budget(trainer, module):
    callback = FourBitMemory(budget_gib=0.001)
    with pytest.warns(RuntimeWarning, match=r"FourBitMemory: .* GiB .* above budget_gib=0\.001"):
        callback.on_train_batch_end(trainer, module, None, None, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_train_batch_end(trainer, module, None, None, 0)


def test_no_warning_within_the_budget(trainer, module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FourBitMemory(budget_gib=10_000.0).on_train_batch_end(trainer, module, None, None, 0)
        FourBitMemory().on_train_batch_end(trainer, module, None, None, 0)


def test_bad_budget_is_named():
    with pytest.raises(ValueError, match=r"FourBitMemory\.budget_gib is 0: give more than 0"):
        FourBitMemory(budget_gib=0)


@pytest.fixture
def run(tiny_model):
    """A run before anything is loaded: its trainer and its module."""
    data = SimpleNamespace(
        rollout=SimpleNamespace(engine=TransformersEngine(), config=RolloutConfig()),
        tasks_per_round=64,
        train_tasks=range(1000),
        warm_start_rounds=0,
        single_level=False,
        validation_tasks=None,
        validation_benchmark=None,
        test_tasks={},
        eval_batch_size=8,
    )
    trainer = SimpleNamespace(
        datamodule=data, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu")), loggers=[]
    )
    base = SimpleNamespace(config=PolicyConfig(model=str(tiny_model), quantization="none"), lm=None)
    return trainer, SimpleNamespace(policy=base, max_tokens_per_micro_batch=16384, grpo={})


def test_stops_a_run_that_cannot_fit_with_the_change_that_would_help(run):
    sentence = (
        r"^this run may take .* GiB on a device \(update \w+\), but has 1\.5: add "
        r"--model\.max_tokens_per_micro_batch \d+;"
    )
    with pytest.raises(ConfigError, match=sentence):
        FourBitMemory(budget_gib=1.5).setup(*run, "fit")
    with pytest.raises(ConfigError, match=r"has 0\.1: no change of settings known here would help"):
        FourBitMemory(budget_gib=0.1).setup(*run, "fit")


def test_does_not_stop_what_fits_or_what_it_is_told_to_let_run(run):
    trainer, module = run
    FourBitMemory(budget_gib=1000).setup(trainer, module, "fit")
    FourBitMemory(budget_gib=0.1, stop=False).setup(trainer, module, "fit")
    FourBitMemory(budget_gib=0.1).setup(trainer, module, "test")  # nothing is trained
    FourBitMemory().setup(trainer, module, "fit")  # no budget, and no CUDA device whose memory would be one
    module.policy.config.model = "/no/such/model"  # loading it will say so
    FourBitMemory(budget_gib=0.1).setup(trainer, module, "fit")
    trainer.datamodule.rollout.engine = object()  # what another engine takes is not known
    FourBitMemory(budget_gib=0.1).setup(trainer, module, "fit")


def test_on_cuda_the_devices_memory_is_the_budget(run, monkeypatch):
    trainer, module = run
    trainer.strategy.root_device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2 * GIB))
    with pytest.raises(ConfigError, match=r"has 2\.0"):
        FourBitMemory().setup(trainer, module, "fit")


def test_cudas_allocator_is_logged(trainer, monkeypatch):
    """What is reserved since the step before, and how often there was no room: two times before training, then 0 and 3 more."""
    retries = iter([2, 2, 5])
    reset = []
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": next(retries)})
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: (3 - len(reset)) * GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    module = SimpleNamespace(device=torch.device("cuda", 0), policy=SimpleNamespace(lm=Adapted()))
    trainer.ckpt_path = None
    callback = FourBitMemory()
    callback.on_fit_start(trainer, module)
    for _ in range(2):
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
    scalars = trainer.scalars()
    assert scalars["memory/reserved_gib"] == [(1, 2.0), (2, 1.0)]  # read before it is reset
    assert scalars["memory/alloc_retries"] == [(1, 0.0), (2, 3.0)]
    assert scalars["memory/peak_gib"] == [(1, 1.0), (2, 1.0)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_on_cuda_is_of_the_step_alone(trainer):
    module = SimpleNamespace(device=torch.device("cuda", 0))
    callback = FourBitMemory()
    callback.on_train_batch_end(trainer, module, None, None, 0)
    for gib in (2, 1):
        trainer.global_step += 1
        torch.empty(gib * GIB, dtype=torch.uint8, device="cuda")
        callback.on_train_batch_end(trainer, module, None, None, 0)
    peaks = [value for _, value in trainer.scalars()["memory/peak_gib"]]
    assert peaks[1] == pytest.approx(2, abs=0.1)
    assert peaks[2] == pytest.approx(1, abs=0.1)

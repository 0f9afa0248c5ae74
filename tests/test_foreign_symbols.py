"""What we use of libraries that they do not promise: all of it is named here, in one file each, and still there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from packaging.version import Version

import cahl_pl
from cahl_pl.policy.row_cache import STATES_ARE_KNOWN

ROOT = Path(__file__).parents[1]


class Foreign(NamedTuple):
    """A symbol of a library, and the one file that may use it.

    `module:Class.attribute`; `()` behind a name makes an instance (`MADE` says how, where that takes arguments), and
    `[a|b]` at the end asks for a parameter named a or b.
    """

    file: str
    symbol: str


SYMBOLS = (
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:Qwen2Model.forward[cache|past_key_values]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:Qwen2Model.forward[attention_mask]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:DynamicCache().layers"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:DynamicCache.update[key_states]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:DynamicCache.update[value_states]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers:DynamicCache.update[layer_idx]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer.update[key_states]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer.update[value_states]"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer().keys"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer().values"),
    Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer().is_initialized"),
    *(
        Foreign("cahl_pl/policy/row_cache.py", f"transformers.cache_utils:{name}")
        for name in (
            "LinearAttentionCacheLayerMixin",
            "DynamicSlidingWindowLayer",
            "LinearAttentionLayer().conv_states",
            "LinearAttentionLayer().recurrent_states",
        )
        if STATES_ARE_KNOWN or Version(version("transformers")) >= Version("5.24")  # older ones: such bases are refused
    ),
    Foreign("cahl_pl/policy/masks.py", "transformers.masking_utils:sliding_window_overlay[sliding_window]"),
    Foreign("cahl_pl/policy/masks.py", "transformers.masking_utils:chunked_overlay[chunk_size]"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers:AttentionInterface.register"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers:AttentionMaskInterface.register"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers:LlamaConfig()._attn_implementation"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers:LlamaModel._can_set_attn_implementation"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers.models.llama.modeling_llama:eager_attention_forward"),
    Foreign("cahl_pl/policy/folded_attention.py", "transformers:LlamaModel._supports_sdpa"),
    Foreign("cahl_pl/policy/bases.py", "transformers:LlamaForCausalLM._supports_sdpa"),
    Foreign("cahl_pl/policy/bases.py", "transformers:LlamaForCausalLM._supports_flex_attn"),
    Foreign("cahl_pl/policy/bases.py", "transformers:LlamaForCausalLM.supports_gradient_checkpointing"),
    Foreign(
        "cahl_pl/policy/noise.py", "transformers.modeling_layers:GradientCheckpointingLayer.gradient_checkpointing"
    ),
    Foreign("cahl_pl/policy/lora.py", "transformers.pytorch_utils:Conv1D"),
    Foreign("cahl_pl/policy/tokenizers.py", "transformers.models.auto.tokenization_auto:get_tokenizer_config"),
    Foreign("cahl_pl/policy/adapter_dtype.py", "peft.tuners.lora:LoraLayer().cast_input_dtype_enabled"),
    Foreign("cahl_pl/policy/policy.py", "peft:PeftModel.set_requires_grad[adapter_names]"),
    Foreign("cahl_pl/policy/policy.py", "peft:PeftModel.disable_adapter"),
    Foreign("cahl_pl/policy/four_bit.py", "bitsandbytes.nn:Linear4bit().support_avx512bf16_for_cpu"),
    Foreign("cahl_pl/policy/four_bit.py", "bitsandbytes.nn:Linear4bit().weight.quant_state"),
    *(
        Foreign("cahl_pl/policy/four_bit.py", f"bitsandbytes.functional:QuantState().{name}")
        for name in ("shape", "absmax", "code", "offset", "state2")
    ),
    Foreign("cahl_pl/lightning_internals.py", "lightning.pytorch:Trainer()._accelerator_connector.cluster_environment"),
    Foreign("cahl_pl/lightning_internals.py", "lightning.pytorch.cli:LightningCLI._parse_ckpt_path"),
    Foreign("cahl_pl/lightning_internals.py", "lightning.pytorch:Trainer().fit_loop.epoch_loop.batch_progress"),
    Foreign("cahl_pl/lightning_internals.py", "jsonargparse:ArgumentParser.add_instantiator"),
    Foreign("cahl_pl/lightning_internals.py", "lightning.pytorch.cli:LightningCLI._prepare_subcommand_parser"),
    Foreign("cahl_pl/lightning_internals.py", "lightning.pytorch.cli:LightningCLI._run_subcommand"),
    Foreign("cahl_pl/distributed.py", "lightning.pytorch.strategies:DDPStrategy.configure_ddp"),
    Foreign("cahl_pl/distributed.py", "lightning.pytorch.strategies:DDPStrategy.setup_distributed"),
    Foreign("cahl_pl/cli.py", "jsonargparse:ArgumentParser()._actions"),
    Foreign("cahl_pl/optimizers.py", "torch.optim.lr_scheduler:LambdaLR().base_lrs"),
    Foreign("cahl_pl/optimizers.py", "torch.optim.lr_scheduler:LambdaLR().lr_lambdas"),
    Foreign("cahl_pl/runs/event_files.py", "tensorboard.compat.proto.event_pb2:Event[session_log]"),
    Foreign("cahl_pl/runs/event_files.py", "tensorboard.compat.proto.event_pb2:SessionLog"),
    Foreign("cahl_pl/runs/event_files.py", "torch.utils.tensorboard:SummaryWriter().file_writer.event_writer"),
    Foreign("cahl_pl/commands/serve.py", "uvicorn:Server.handle_exit"),  # sse-starlette wraps it, in any way
    Foreign("cahl_pl/commands/serve.py", "uvicorn:Server.startup[sockets]"),
    Foreign("tools/speed/measure_mixing.py", "peft.tuners.lora:LoraModel._enable_peft_forward_hooks"),
    Foreign("tools/memory/shadows.py", "torch._subclasses.fake_tensor:FakeTensor"),
    Foreign("tools/memory/shadows.py", "torch._subclasses.fake_tensor:FakeTensorMode[allow_non_fake_inputs]"),
    Foreign("tools/memory/shadows.py", "torch.utils._python_dispatch:TorchDispatchMode"),
    Foreign("tools/memory/shadows.py", "torch.utils._pytree:tree_leaves"),
    Foreign("tools/memory/shadows.py", "torch:UntypedStorage()._cdata"),
    Foreign("tools/memory/shadows.py", "torch:ops.aten.mm.default._schema"),
    Foreign("tools/speed/profile_step.py", "torch.utils._python_dispatch:TorchDispatchMode"),
    Foreign("tools/speed/profile_step.py", "torch:ops.aten.mm.default._overloadpacket"),
    Foreign("tools/speed/profile_step.py", "torch:ops.aten.mm.default._schema"),
    Foreign("tools/speed/profile_step.py", "trl:GRPOTrainer._prepare_inputs"),
    Foreign("tools/speed/benchmark_grpo.py", "trl:GRPOTrainer._compute_loss"),
)


def _scheduler(cls):
    return cls(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), lambda step: 1.0)


def _quant_state(cls):
    return cls(absmax=torch.zeros(1), shape=torch.Size([1]))


@pytest.fixture
def made(tmp_path):
    """How to make an instance of a class, where that takes arguments."""
    return {
        "LambdaLR": _scheduler,
        "LoraLayer": lambda cls: cls(torch.nn.Linear(1, 1)),
        "QuantState": _quant_state,
        "Linear4bit": lambda cls: cls(1, 1),
        "SummaryWriter": lambda cls: cls(str(tmp_path)),
        "Trainer": lambda cls: cls(accelerator="cpu", logger=False, enable_checkpointing=False),
    }


def complaint(foreign: Foreign, made=()) -> str | None:
    """One sentence on a symbol that is gone; None where it is still there."""
    module, _, path = foreign.symbol.partition(":")
    library = module.partition(".")[0]
    path, _, parameter = path.rstrip("]").partition("[")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name.removesuffix("()"))
            if name.endswith("()"):
                found = dict(made).get(name.removesuffix("()"), lambda cls: cls())(found)
        if parameter and not _takes(found, parameter.split("|")):
            raise AttributeError(parameter)
    except (ImportError, AttributeError):
        distribution = packages_distributions().get(library, [library])[0]
        return (
            f"{foreign.file} uses {foreign.symbol}, which {distribution} {_version(distribution)} does not have: adapt that "
            f"file, or bound {distribution} below this version in pyproject.toml"
        )
    return None


def _takes(found: object, names: list[str]) -> bool:
    if hasattr(found, "DESCRIPTOR"):  # a message of protobuf
        return any(name in found.DESCRIPTOR.fields_by_name for name in names)
    return any(name in inspect.signature(found).parameters for name in names)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "as installed"


@pytest.mark.parametrize("foreign", SYMBOLS, ids=lambda foreign: foreign.symbol)
def test_every_symbol_that_we_use_without_a_promise_is_there(foreign, made):
    if foreign.symbol.startswith("trl:"):
        pytest.importorskip("trl", reason="trl, beside which speed is measured, is installed by hand")
    problem = complaint(foreign, made)
    assert problem is None, problem


def test_a_symbol_that_is_gone_is_named_in_one_sentence(monkeypatch):
    class Thing:
        def method(self, old_name):
            pass

    stub = ModuleType("stub_library")
    stub.Thing = Thing
    monkeypatch.setitem(sys.modules, "stub_library", stub)
    method = Foreign("cahl_pl/x.py", "stub_library:Thing().method")
    parameter = Foreign("cahl_pl/x.py", "stub_library:Thing.method[old_name|older_name]")
    assert complaint(method) is None
    assert complaint(parameter) is None

    def renamed(self, new_name):
        pass

    monkeypatch.setattr(Thing, "method", renamed)
    assert complaint(method) is None
    assert complaint(parameter) == (
        "cahl_pl/x.py uses stub_library:Thing.method[old_name|older_name], which stub_library as installed does not have: "
        "adapt that file, or bound stub_library below this version in pyproject.toml"
    )
    monkeypatch.delattr(Thing, "method")
    assert complaint(method).startswith(
        "cahl_pl/x.py uses stub_library:Thing().method, which stub_library as installed"
    )
    monkeypatch.delitem(sys.modules, "stub_library")
    assert complaint(method).startswith("cahl_pl/x.py uses stub_library:Thing().method, which")


def test_a_layer_of_transformers_caches_that_is_gone_is_named(monkeypatch):
    from transformers import cache_utils

    monkeypatch.delattr(cache_utils, "DynamicLayer")
    said = complaint(Foreign("cahl_pl/policy/kv_cache.py", "transformers.cache_utils:DynamicLayer().keys"))
    assert said.startswith(
        "cahl_pl/policy/kv_cache.py uses transformers.cache_utils:DynamicLayer().keys, which transformers 5."
    )
    assert said.endswith("does not have: adapt that file, or bound transformers below this version in pyproject.toml")


def test_every_library_that_we_use_without_a_promise_is_capped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    requirements = [*project["dependencies"], *extras]
    capped = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements if ",<" in requirement}
    used = {
        f.symbol.partition(":")[0].partition(".")[0] for f in SYMBOLS if f.file.startswith(("cahl_pl/", "callbacks/"))
    }
    assert used - capped == set(), "give it an upper bound in pyproject.toml: the newest release that passes"
    assert {"transformers", "torch"} <= used


# --- the table cannot fall behind --------------------------------------------------------------------------------------

DOCUMENTED_MODULES = {
    "huggingface_hub.utils",
    "jsonschema.exceptions", "jsonschema.protocols", "jsonschema.validators",
    "lightning.fabric.utilities.exceptions", "lightning.pytorch", "lightning.pytorch.callbacks", "lightning.pytorch.cli",
    "lightning.pytorch.loggers", "lightning.pytorch.plugins.environments", "lightning.pytorch.strategies",
    "lightning.pytorch.utilities",
    "llguidance.hf", "llguidance.numpy",
    "mcp.client.stdio", "mcp.client.streamable_http",
    "matplotlib.figure", "matplotlib.lines", "matplotlib.ticker",
    "numpy.typing",
    "referencing.exceptions", "referencing.jsonschema",
    "rich.console", "rich.table",
    "safetensors.torch",
    "packaging.requirements",
    "pydantic.fields", "pydantic.json_schema",
    "scipy.optimize", "scipy.sparse", "scipy.stats",
    "starlette.applications", "starlette.exceptions", "starlette.requests", "starlette.responses", "starlette.routing",
    "starlette.types",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch.distributed", "torch.distributed.device_mesh", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.nn", "torch.nn.attention.flex_attention", "torch.nn.functional",
    "torch.nn.utils.rnn", "torch.profiler", "torch.utils.checkpoint",
    "torch.utils.data", "torch.utils.flop_counter",
    "transformers.utils",  # logging, in its documentation
}  # fmt: skip
"""Modules below the top level whose names their libraries document; any other one belongs into `SYMBOLS`, but for the
standard library's."""

DOCUMENTED_NAMES = {"_asdict", "_exit", "_field_defaults", "_fields", "_replace"}
"""Names of the standard library that are public in spite of their underscore."""

MADE_BY_METACLASS = {
    "_abc_impl",
    "_backward_cls",
}  # of abstract classes and of torch's autograd.Function: nothing of ours

INSTALLED_BY_HAND = {"bfcl_eval"}
"""At the version that the documentation names; its own test runs with that."""


def _sources() -> Iterator[Path]:
    for folder in ("cahl_pl", "callbacks", "tools"):
        yield from (
            path for path in (ROOT / folder).rglob("*.py") if ROOT / "cahl_pl" / "callbacks" not in path.parents
        )


def _own_names(trees: list[ast.AST]) -> set[str]:
    """Private names that our own code defines somewhere."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
    return names


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED_NAMES


def undocumented(tree: ast.AST, own: set[str]) -> set[str]:
    """Modules and attributes of others that a file uses, and that nobody documents."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            library, _, deeper = node.module.partition(".")
            if library in ("cahl_pl", "tools", *INSTALLED_BY_HAND, *sys.stdlib_module_names) and not _is_private(
                library
            ):
                continue
            if deeper and node.module not in DOCUMENTED_MODULES:
                found.add(node.module)
            found |= {alias.name for alias in node.names if _is_private(alias.name)}
        elif isinstance(node, ast.Import):
            deep = {alias.name for alias in node.names if "." in alias.name} - DOCUMENTED_MODULES
            found |= {name for name in deep if name.partition(".")[0] not in ("cahl_pl", *sys.stdlib_module_names)}
    return found


def _is_declared(file: str, name: str) -> bool:
    """Whether the table has it for this file: as a module, or as a part of a symbol's path."""
    for foreign in SYMBOLS:
        module, _, path = foreign.symbol.partition(":")
        parts = path.partition("[")[0].replace("()", "").split(".")
        if foreign.file == file and (name == module or name in parts):
            return True
    return False


def test_nothing_else_is_used_without_a_promise():
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in _sources()}
    assert len(trees) > 100
    own = _own_names(list(trees.values()))
    left = [
        f"{file} uses {name}: take what its library documents, or name it in SYMBOLS of {Path(__file__).name}"
        for file, tree in trees.items()
        for name in sorted(undocumented(tree, own))
        if not _is_declared(file, name)
    ]
    assert not left, "\n".join(left)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("scheduler._last_lr = [1.0]", {"_last_lr"}),
        ("keys = [a.dest for a in parser._actions]", {"_actions"}),
        ("from torch.nn.modules.module import _IncompatibleKeys", {"torch.nn.modules.module", "_IncompatibleKeys"}),
        ("from transformers.models.qwen2 import modeling_qwen2", {"transformers.models.qwen2"}),
        ("import transformers.cache_utils", {"transformers.cache_utils"}),
        ("def _own(): pass\nx._own()\nself._held = 1\nother._held\nrow._replace(a=1)\nx.__dict__", set()),
        ("from transformers import AutoModel\nfrom lightning.pytorch import Trainer\nfrom .x import _y", set()),
    ],
)
def test_what_nobody_documents_is_found_in_a_source(source, found):
    tree = ast.parse(source)
    assert undocumented(tree, _own_names([tree])) == found


def test_no_private_method_of_a_library_is_replaced_unnoticed():
    """A subclass that overrides one stops working, without an error, when the library renames it."""
    left, seen = [], 0
    for module in _modules():
        for cls in vars(module).values():
            if not isinstance(cls, type) or cls.__module__ != module.__name__:
                continue
            seen += 1
            file = Path(inspect.getfile(cls)).resolve().relative_to(ROOT).as_posix()
            left += [
                f"{file}: {cls.__name__} replaces {name}" for name in _replaced(cls) if not _is_declared(file, name)
            ]
    assert seen > 50
    assert not left, "\n".join(left)


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(cahl_pl.__path__, "cahl_pl."):
        if info.name.endswith(("__main__", "worker")):  # programs
            continue
        yield importlib.import_module(info.name)


def _replaced(cls: type) -> set[str]:
    """Private names of a class that a base of another library has too."""
    bases = [
        base
        for base in cls.__mro__[1:]
        if base.__module__.partition(".")[0] not in ("cahl_pl", *sys.stdlib_module_names)
    ]
    theirs = {name for base in bases for name in vars(base)}
    return {name for name in vars(cls) if _is_private(name) and name in theirs} - MADE_BY_METACLASS


def test_a_private_method_that_is_replaced_is_found():
    class Theirs:
        def _hook(self):
            pass

    Theirs.__module__ = "stub_library"

    class Ours(Theirs):
        def _hook(self):
            pass

        def _other(self):
            pass

    assert _replaced(Ours) == {"_hook"}

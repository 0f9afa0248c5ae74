"""One frozen base model that carries both roles' LoRA adapters.

The rules that keep two adapters on one base honest (each was seen to fail silently when broken):

- an adapter is activated once per phase, and forward and backward of one loss run under the same active adapter;
- only this class may set `requires_grad` of a weight. It is off in the base and on in both adapters, always; PEFT's
  `set_adapter` and `disable_adapter` flip it, so it is restored after each of them, and optimisers collect their
  parameters by name;
- nothing is ever merged into the base: merging into 4-bit weights loses information.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahl_pl.errors import PolicyError
from cahl_pl.policy.adapter_dtype import compute_in_base_dtype
from cahl_pl.policy.bases import LengthLimit, check_length, decoder_of, forget_unread, keeps_states, length_limit
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.folded_attention import decoding_attention, folded_attention
from cahl_pl.policy.kv_cache import Mask
from cahl_pl.policy.loading import load_base, load_tokenizer, read_config
from cahl_pl.policy.lora import check_lora, lora_config, with_adapter
from cahl_pl.policy.masks import Intervals, as_bias, blocks_by_type, seen_by_type
from cahl_pl.policy.noise import recomputed_layers, remove_noise
from cahl_pl.policy.prefix_store import PrefixStore
from cahl_pl.policy.reference import drop_reference, keep_reference, name_of, roles_in
from cahl_pl.policy.saved_adapters import check_adapters, read_adapters
from cahl_pl.policy.sharding import gathered, num_shards, shard
from cahl_pl.types import ROLES, Role


class Policy(nn.Module):
    """The base and its two adapters. Empty until `load` is called, so that strategies can place it.

    Attributes:
        config: the configuration, which may change until `load` is called (the 4-bit memory callback does so).
        lm: the PEFT model; None before `load`.
        tokenizer: the base's tokenizer; None before `load`.
        version: optimiser steps taken by each role's adapter.
        loads: how often adapter weights were loaded; with `version` it tells whether they are still the same.
        invocation: the token ids that each role's own words start with, from which an activated adapter acts.
        end_of_turn: the id that ends an assistant turn of the chat template, once prompts have been made; outputs stop at it.
        thinks_in_tokens: whether special tokens separate thoughts from answers, so that a text without them does not; known
            once prompts have been made.
        compiler: the compiler of grammars, with its key, once there are any (`constraint.compiler_of`).
        prefixes: keys and values to reuse.
        recomputes: whether activations are recomputed in the backward pass of the current run.
        shares_rows: whether sequences may share a row, separated by a mask; False if layers carry states.
        shards: processes that the base is sharded over, which then run the same passes in the same order; 1: it is whole.
    """

    lm: Any
    tokenizer: Any

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.lm = None
        self.tokenizer = None
        self.version: dict[Role, int] = dict.fromkeys(ROLES, 0)
        self.loads = 0
        self.invocation: dict[Role, list[int]] = {}
        self.end_of_turn: int | None = None
        self.thinks_in_tokens = False
        self.compiler: tuple[Any, Any] | None = None
        self.prefixes = PrefixStore(config.prefix_cache_tokens)
        self.recomputes = False
        self.shares_rows = True
        self.shards = 1
        self._recomputed: list[nn.Module] = []
        self._length_limit: LengthLimit | None = None
        self._bare = False  # adapters are disabled

    def load(
        self, device: torch.device | str = "cpu", longest: int = 0, examine: Callable[[Any], object] | None = None
    ) -> None:
        """Load tokenizer and base and add fresh adapters. Do nothing if already loaded.

        Args:
            device: device of the base.
            longest: tokens of the longest possible sequence, as far as that is known.
            examine: function called with the tokenizer before weights are loaded, to raise any faults.

        Raises:
            PolicyError: the model cannot be found or loaded as configured, or would be computed wrongly.
            ConfigError: sequences may become too long for it, or the adapters to start from do not fit; see also `lora_config`.
        """
        if self.lm is not None:
            return
        check_lora(self.config)
        check_adapters(self.config)
        base_config = read_config(self.config)
        self._length_limit = length_limit(base_config)
        check_length(base_config, self.config.model, longest)
        if examine is not None:
            examine(load_tokenizer(self.config, base_config))
        self.shards = num_shards(self.config)
        if self.shards == 1:
            self.tokenizer, base = load_base(self.config, base_config, torch.device(device))
        else:  # it goes to the device layer by layer, where Lightning would put all new tensors
            with (cpu := torch.device("cpu")):
                self.tokenizer, base = load_base(self.config, base_config, cpu)
        base.requires_grad_(False)
        forget_unread(base)
        remove_noise(base)
        lora = lora_config(self.config, base)
        self.lm = with_adapter(self.config, base, lora)
        for role in ROLES[1:]:
            self.lm.add_adapter(role, copy.deepcopy(lora))  # PEFT keeps the object itself; exports tell them apart
        if self.config.gradient_checkpointing:
            # on the base: PEFT's own switch would make the embeddings' output require gradients, which only the
            # re-entrant kind of checkpointing needs
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._recomputed = list(recomputed_layers(base))
        self.lm.eval()
        self._active: Role = ROLES[0]
        if self.config.adapters is not None:
            read_adapters(self)
        self.restore_active()
        if self.shards > 1:
            shard(self.lm, self.causal_lm, self.decoder, torch.device(device))
        self.shares_rows = not keeps_states(base.config)
        self._check_logits()

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return torch.device(next(self.lm.parameters()).device)

    @property
    def causal_lm(self) -> Any:
        """The transformers model below PEFT."""
        return self.lm.get_base_model()

    @property
    def decoder(self) -> Any:
        """The layers below the output layer; of a multimodal model those of its language model."""
        return decoder_of(self.causal_lm)

    @property
    def hidden_size(self) -> int:
        """Width of the model."""
        return int(self.causal_lm.config.get_text_config().hidden_size)

    @property
    def limits_length(self) -> bool:
        """Return whether the base limits the length of sequences."""
        return self._length_limit is not None

    def check_length(self, longest: int) -> None:
        """Check that the base can take sequences of a given length.

        Raises:
            ConfigError: it cannot.
        """
        if self._length_limit is not None:
            self._length_limit.check(self.config.model, longest)

    def attention_mask(self, seen: Tensor | Intervals, queries: Tensor, keys: Tensor) -> Mask:
        """Return the mask that the model takes, [R, 1, Q, K]; by layer type if its layers do not all see the same.

        Args:
            seen: whether a token may see another, [R, Q, K], or the equivalent intervals. FlexAttention takes only those
                of packed rows: it is not used for a few new tokens.
            queries: positions of the query tokens, [R, Q].
            keys: positions of the key tokens, [R, K].
        """
        config = self.causal_lm.config.get_text_config()
        masks: dict[str, Any]
        if isinstance(seen, Intervals) and self.config.attention == "flex_attention":
            masks = blocks_by_type(config, seen, queries, keys)
        else:
            visible = seen.visible() if isinstance(seen, Intervals) else seen
            boolean = decoding_attention(self.decoder) == "sdpa"
            masks = {
                kind: (mask if boolean else as_bias(mask, self.causal_lm.dtype))[:, None]
                for kind, mask in seen_by_type(config, visible, queries, keys).items()
            }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the output layer on last hidden states [..., H], in float32, with what some models apply after it."""
        logits: Tensor = self.causal_lm.get_output_embeddings()(hidden).float()
        config = self.causal_lm.config.get_text_config()
        if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite divides
            logits = logits * scaling if config.model_type == "hyperclovax" else logits / scaling
        if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * factor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits

    def whole_output(self) -> contextlib.AbstractContextManager[None]:
        """Gather the whole output layer within, as `logits` needs it; with a sharded base all processes enter together."""
        return gathered(self.causal_lm.get_output_embeddings()) if self.shards > 1 else contextlib.nullcontext()

    def _check_logits(self) -> None:
        """Compare `logits` with the model's own on a few tokens.

        Raises:
            PolicyError: the model does something after its output layer that `logits` does not.
        """
        ids = torch.arange(4, device=self.device)[None]
        try:
            with torch.no_grad(), folded_attention(self.decoder), self.whole_output():
                own = self.causal_lm(input_ids=ids, use_cache=False).logits.float()
                ours = self.logits(self.decoder(input_ids=ids, use_cache=False).last_hidden_state)
        except Exception as error:  # any error of a model whose configuration contradicts itself
            reason = (str(error).strip().splitlines() or [""])[0]
            raise PolicyError(
                f"the base {self.config.model!r} ({self.causal_lm.config.model_type}) cannot read four tokens "
                f"({type(error).__name__}: {reason}): look for sizes in its config.json that do not go together, or choose "
                "another base"
            ) from error
        if (own - ours).abs().max() > 0.05 * own.abs().max():
            raise PolicyError(
                f"a {self.causal_lm.config.model_type} model changes its logits behind the output layer in a way that is not "
                "known here, and log-probabilities would be wrong: choose another base"
            )

    def parameters_of(self, role: Role) -> list[nn.Parameter]:
        """Return the parameters of one role's adapter, found by name."""
        return [parameter for name, parameter in self.lm.named_parameters() if f".{role}." in name]

    def activate(self, role: Role) -> None:
        """Make `role` the adapter of every forward pass that follows."""
        if role != self._active:
            self._active = role
            self.restore_active()

    def restore_active(self) -> None:
        """Make the role's adapter active again after another adapter has been made or used."""
        if self.config.adapter_dtype != "float32":
            compute_in_base_dtype(self.lm)
        self.lm.set_adapter(self._active)
        self._require_grad()

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Switch to the bare base: the reference without a warm start, and the reader of what precedes an activated adapter."""
        if self._bare:  # PEFT would enable the adapters again at the end of the inner one
            yield
            return
        self._bare = True
        try:
            with self.lm.disable_adapter():
                yield
        finally:
            self._bare = False
            self._require_grad()

    @property
    def prefix_owner(self) -> str:
        """Owner of a frozen prefix's keys and values: the base, or the active adapter in its current version."""
        if self._bare or self.config.adapter == "alora":
            return "base"
        return f"{self._active} {self.version[self._active]}"

    def begin_prefixes(self) -> None:
        """Begin a call that reads prompts, and forget what only outdated adapters have read."""
        self.prefixes.begin({"base", *(f"{role} {version}" for role, version in self.version.items())})

    def frozen_tokens(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of a prompt the bare base reads before the active adapter acts: 0 with plain LoRA.

        An activated adapter acts from the last occurrence of its invocation tokens on, as in PEFT and vLLM.

        Raises:
            PolicyError: they do not occur.
        """
        if self.config.adapter == "lora":
            return 0
        tokens = self.invocation[self._active]
        for start in range(len(prompt) - len(tokens), -1, -1):
            if list(prompt[start : start + len(tokens)]) == tokens:
                return start
        raise PolicyError(
            f"a prompt of the {self._active} does not hold the words that activate its adapter: data.prompts.{self._active} "
            "must start with words of its own"
        )

    @contextlib.contextmanager
    def training_mode(self) -> Iterator[None]:
        """Set train mode for layers whose activations are recomputed; their parts stay in eval mode, without noise.

        An activated adapter trains on top of a cache; what it recomputes would be short.
        """
        self.recomputes = self.config.gradient_checkpointing and self.config.adapter == "lora"
        for layer in self._recomputed:
            layer.training = self.recomputes
        try:
            yield
        finally:
            self.recomputes = False
            for layer in self._recomputed:
                layer.training = False

    def train(self, mode: bool = True) -> Policy:
        """Stay in eval mode: Lightning's mode switches must not turn the KV cache off under a rollout."""
        return self

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the weights of the adapters, and of their copies that are references, name -> tensor; no base."""
        names = [f".{name}." for role in ROLES for name in (role, name_of(role))]
        return {k: v.detach() for k, v in self.lm.named_parameters() if any(name in k for name in names)}

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Copy weights made by `adapter_state` into the adapters, with references if it contains them.

        Raises:
            PolicyError: names or shapes differ (another base, rank or target modules).
        """
        for role in ROLES:
            if role in roles_in(state):
                keep_reference(self, role)
            else:
                drop_reference(self, role)
        own = self.adapter_state()
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if shapes != {name: tensor.shape for name, tensor in own.items()}:
            raise PolicyError(
                f"the checkpoint's adapters do not fit the model {self.config.model!r} with LoRA rank "
                f"{self.config.lora_rank}: use the model, rank and target modules they were trained with"
            )
        self.prefixes.forget()
        self.loads += 1
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def check_config(self, then: Mapping[str, Any]) -> None:
        """Compare the configuration with that of a checkpoint.

        Raises:
            PolicyError: its adapters would act differently, which their shapes do not show.
        """
        for name in ("adapter", "lora_alpha", "use_rslora", "use_dora"):
            now, before = (
                getattr(self.config, name),
                then.get(name, False),
            )  # an old checkpoint does not have all of them
            if before != now:
                raise PolicyError(
                    f"the checkpoint was written with policy.{name} = {before!r}, now it is {now!r}, and its adapters "
                    "would act in another way: use the old value"
                )
        if then["model"] != self.config.model:
            print(
                f"note: the checkpoint was trained on {then['model']!r}, and goes on with {self.config.model!r}",
                flush=True,
            )

    def _require_grad(self) -> None:
        self.lm.set_requires_grad(list(ROLES))

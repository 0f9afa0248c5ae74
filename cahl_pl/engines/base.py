"""Sampling of tokens. An engine knows adapters by name and nothing of prompts, tools or rewards."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cahl_pl.errors import ConfigError
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Role


@dataclass
class Sampling:
    """Settings of token sampling. For the sampling of a round's tasks see `cahl_pl.sampling`.

    Attributes:
        temperature: divisor of the logits; 0 takes the likeliest token.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all, as training requires: tokens
            never sampled have a share in the log-probabilities that are trained, whose ratios would be biased.
        max_new_tokens: length limit of a completion, end of turn included.
        max_thinking_tokens: maximum tokens of a thought; one that reaches it is closed there, and the answer follows. The
            words that close it are not trained on. null: only `max_new_tokens` limits thought and answer together.

    Raises:
        ValueError: a number is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    max_thinking_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_thinking_tokens is not None and not 1 <= self.max_thinking_tokens < self.max_new_tokens:
            raise ValueError(
                f"sampling needs max_thinking_tokens of at least 1 and below max_new_tokens = {self.max_new_tokens}, which "
                f"holds the answer too, not {self.max_thinking_tokens}; null for no limit"
            )
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError(
                "sampling needs temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, "
                f"not {self.temperature}, {self.top_p} and {self.max_new_tokens}"
            )


@dataclass(slots=True)
class Completion:
    """One sampled completion.

    Attributes:
        ids: token ids, shape [C], end of turn included if it was reached.
        logprobs: log-probability of each token under the sampling distribution before top_p, among those that a grammar
            allows, shape [C], float32.
        ended: whether it ended by itself; False when it hit the length limit.
        sampled: False at tokens that were inserted, not sampled, whose log-probabilities are 0, shape [C], bool; None if
            all were sampled.
        thinking_tokens: how many of its tokens are its thought, if counted.
        grammar: grammar that it was sampled within, if recorded.
    """

    ids: Tensor
    logprobs: Tensor
    ended: bool
    sampled: Tensor | None = None
    thinking_tokens: int = 0
    grammar: str | None = None

    @property
    def ended_by(self) -> int | None:
        """The id that it ended with; None if it did not end."""
        return int(self.ids[-1]) if self.ended and len(self.ids) else None


class Engine(ABC):
    """Sampler of completions with one of the two adapters."""

    def check_training(self) -> None:  # noqa: B027 - nothing to check for most
        """Check, before training, that this engine can train.

        Raises:
            ConfigError: this engine cannot sample from adapters that change.
        """

    def check_constrained_training(self) -> None:
        """Check, before training, that samples of this engine within grammars can be trained on.

        Raises:
            ConfigError: its log-probabilities may not be those among the allowed tokens.
        """
        raise ConfigError(
            f"data.rollout.constrained is true, but data.engine is a {type(self).__name__}, whose log-probabilities are not "
            "known to be those among the tokens that grammars allow: sample with cahl_pl.engines.TransformersEngine, or leave "
            "it out"
        )

    def check_lag(self) -> None:
        """Check, before training, that this engine can sample a round while updates change the adapters (`data.lag`).

        Raises:
            ConfigError: it samples in this process with the very weights that change.
        """
        raise ConfigError(
            f"data.lag is above 0, but data.engine, a {type(self).__name__}, samples in this process with the weights that the "
            "updates change: use cahl_pl.engines.ServerEngine, or leave out data.lag"
        )

    def check_sharded_base(self) -> None:
        """Check that this engine can sample with the base sharded over several processes (`model.policy.shard_base`).

        Raises:
            ConfigError: it samples with the base of this process.
        """
        raise ConfigError(
            f"model.policy.shard_base is true, but data.engine, a {type(self).__name__}, samples in this process, and a pass "
            "through a sharded base waits for all processes, which sample for tasks of their own: use "
            "cahl_pl.engines.ServerEngine, or --model.policy.shard_base false"
        )

    def start_training(self, policy: Policy) -> None:  # noqa: B027 - nothing to do for most
        """Get ready for training, once the policy is loaded and before its first round.

        Raises:
            ConfigError: something this engine depends on is not ready.
        """

    def freeze(self, policy: Policy, abandoned: threading.Event) -> Engine:
        """Return an engine that keeps sampling with the current adapters, in another thread.

        Only called on an engine whose `check_lag` has passed.

        Args:
            policy: holds the adapters.
            abandoned: set when the samples are no longer needed; a wait for them may then raise anything.

        Raises:
            NotImplementedError: an engine that accepts `data.lag` does not implement it.
        """
        raise NotImplementedError(f"{type(self).__name__}.check_lag takes data.lag, and it has no `freeze`: write one")

    @abstractmethod
    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """Sample `num_samples` completions of each prompt.

        Args:
            policy: holds the base and the adapters.
            role: the adapter to sample from.
            prompts: token ids, of any lengths.
            num_samples: completions per prompt (G).
            sampling: temperature, top_p, length limit.
            generator: the only source of randomness.

        Returns:
            One list of `num_samples` completions per prompt, in the order of the prompts.
        """

    def generate_from_drafts(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """Return what `generate` does for one sample per prompt, possibly sooner if the drafts match the samples.

        Args:
            policy: holds the base and the adapters.
            role: the adapter to sample from.
            prompts: token ids, of any lengths.
            drafts: a guess at each completion, end of turn included; empty for none.
            sampling: temperature, top_p, length limit.
            generator: the only source of randomness.

        Returns:
            A list of one completion per prompt, in the order of the prompts.
        """
        return self.generate(policy, role, prompts, 1, sampling, generator)

    def go_on(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[Completion]:
        """Sample the continuations of partial completions.

        Args:
            policy: holds the base and the adapters.
            role: the adapter to sample from.
            prompts: token ids, of any lengths.
            begun: the beginning of each completion.
            sampling: temperature, top_p, length limit of the continuation.
            generator: the only source of randomness.

        Returns:
            The rest of each completion, in order.
        """
        longer = [[*prompt, *start] for prompt, start in zip(prompts, begun, strict=True)]
        return [rest for (rest,) in self.generate(policy, role, longer, 1, sampling, generator)]

    def generate_within(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        grammars: Sequence[str],
        sampling: Sampling,
        generator: torch.Generator,
        num_samples: int = 1,
    ) -> list[list[Completion]]:
        """Sample completions of each prompt that follow the prompt's grammar.

        One that reaches the length limit is cut off there. The log-probabilities are those among the allowed tokens.

        Args:
            policy: holds the base and the adapters.
            role: the adapter to sample from.
            prompts: token ids, of any lengths.
            drafts: a guess at each completion, end of turn included; empty for none.
            grammars: grammar of each prompt, in llguidance's variant of Lark.
            sampling: temperature, top_p, length limit.
            generator: the only source of randomness.
            num_samples: completions per prompt; drafts help only if it is 1.

        Returns:
            One list of `num_samples` completions per prompt, in the order of the prompts.

        Raises:
            ConfigError: this engine cannot follow grammars, or a grammar cannot be used.
        """
        raise ConfigError(
            f"data.inference.constrained is true, but data.engine, a {type(self).__name__}, cannot follow grammars: use "
            "cahl_pl.engines.TransformersEngine or ServerEngine"
        )

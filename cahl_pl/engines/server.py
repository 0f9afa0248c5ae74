"""Sampling on OpenAI-compatible servers; made for vLLM and tested with it.

Prompts go out and completions come back as token ids: nothing is tokenised again, and text of a request never becomes a
control token. For the transfer of adapters in training see `served_adapters`, for load balancing `servers`.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.engines.served_adapters import ServedAdapters, models_of
from cahl_pl.engines.servers import Servers
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import Client, Refusal, TryAgain
from cahl_pl.plurals import counted
from cahl_pl.policy.endings import stop_ids
from cahl_pl.policy.policy import Policy
from cahl_pl.types import ROLES, Role

_NEUTRAL: Final = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Fields of every request: for those left out vLLM uses the model's generation_config.json."""

_PROBED: Final = 5
"""Number of likeliest tokens requested to see whether log-probabilities follow the temperature."""


class ServerEngine(Engine):
    """Sampling on one or several servers that have the same base and both adapters.

    With several, each prompt goes to the server with the fewest requests in flight. One that does not answer is left out, its
    requests go to the others, and it is readmitted once it answers again and has the then current adapters. Seeds
    belong to prompts, so that samples do not depend on which server answers, as far as the servers compute alike.

    Args:
        base_url: address of the server, with or without `/v1` at its end; or a list of several servers'.
        adapter_folder: folder that this process writes the adapters to and every server reads them from, under the same path;
            needed for training. None: the servers have their own adapters, which do not change.
        planner: name of the planner's adapter on the servers, without an `adapter_folder`.
        executor: name of the executor's.
        timeout_s: timeout of one attempt at a request, in seconds.
        retries: further attempts at a server that does not answer while no other does, after 1, 2, 4, ... seconds, at most 60.
        api_key_env: name of the environment variable with the key that the servers require; null for none.
        concurrency: maximum requests (one per prompt) in flight at one server.

    Raises:
        ConfigError: see `Servers`.
    """

    def __init__(
        self,
        base_url: list[str] | str,  # with list first, the command line's '[...]' is read as one
        adapter_folder: str | None = None,
        planner: str = "planner",
        executor: str = "executor",
        timeout_s: float = 600.0,
        retries: int = 8,
        api_key_env: str | None = None,
        concurrency: int = 64,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else base_url
        self.servers = Servers(urls, timeout_s, retries, api_key_env, concurrency)
        folder = None if adapter_folder is None else Path(adapter_folder).expanduser().absolute()
        self.adapters = None if folder is None else ServedAdapters(folder)
        self.names: dict[Role, str] = {"planner": planner, "executor": executor}
        self._scaled: set[str] = set()  # servers whose log-probabilities include the temperature

    def check_training(self) -> None:
        """See `Engine.check_training`."""
        if self.adapters is None:
            raise ConfigError(
                "data.engine is a server whose adapters stay as they are, but training changes them: give "
                "data.engine.adapter_folder a folder that this process and the server can both read"
            )

    def check_lag(self) -> None:
        """See `Engine.check_lag`."""

    def check_sharded_base(self) -> None:
        """See `Engine.check_sharded_base`."""

    def start_training(self, policy: Policy) -> None:
        """Load both adapters on all servers, so that a folder which one of them cannot read shows before the first round.

        Raises:
            ConfigError: a server does not accept them, or none answers.
        """
        if self.adapters is not None:
            self.adapters.agree()
            for role in ROLES:
                self.servers.prepare_all(self.adapters.preparation(self.adapters.current(policy, role)))

    def freeze(self, policy: Policy, abandoned: threading.Event) -> Engine:
        """See `Engine.freeze`."""
        assert self.adapters is not None  # ensured by `check_training`
        return FrozenEngine(self, self.adapters.freeze(policy), abandoned)

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; without an `adapter_folder`, the policy may have a tokenizer and no model.

        Each prompt has its own seed, drawn from `generator`; the same seed gives the same tokens only as far as the
        server computes the same numbers whatever its other load.

        Raises:
            ConfigError: the server does not answer, refuses, or returns something other than completions.
        """
        return self._generate(policy, role, prompts, num_samples, sampling, generator, [{}] * len(prompts))

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
        """See `Engine.generate_within`: uses vLLM's structured outputs, whose back end must be llguidance.

        Raises:
            ConfigError: see `generate`.
        """
        own = [{"structured_outputs": {"grammar": grammar}} for grammar in grammars]
        return self._generate(policy, role, prompts, num_samples, sampling, generator, own)

    def _generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
        own: Sequence[Mapping[str, Any]],
        frozen: Path | None = None,
        abandoned: threading.Event | None = None,
    ) -> list[list[Completion]]:
        """Sample; `own` holds each prompt's own request fields, `frozen` an adapter to use instead of the current one."""
        greedy = sampling.temperature == 0  # all samples are then the same, and vLLM refuses to make several
        count = 1 if greedy else num_samples
        seeds = [0] * len(prompts) if greedy else torch.randint(2**31, (len(prompts),), generator=generator).tolist()
        training = self.adapters is not None
        reader = _Reader(policy, count, sampling.max_new_tokens, training)
        adapter = frozen
        if self.adapters is not None and frozen is None and prompts:
            adapter = self.adapters.current(policy, role)
        common: dict[str, Any] = {"model": self.names[role] if adapter is None else adapter.name}
        common |= {"stop_token_ids": sorted(reader.stop), "logprobs": 0, "return_token_ids": True, **_NEUTRAL}
        common |= {"n": count, "max_tokens": sampling.max_new_tokens}
        common |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        payloads = [
            {**common, **more, "prompt": list(prompt), "seed": seed}
            for prompt, seed, more in zip(prompts, seeds, own, strict=True)
        ]

        def prepare(client: Client, again: bool) -> None:
            if self.adapters is not None and adapter is not None:
                self.adapters.preparation(adapter)(client, again)
            elif again:
                models_of(client)
            if again:
                self._scaled.discard(client.url)
            if training and sampling.temperature not in (0, 1):
                self._check_logprobs(client, payloads[0])

        try:
            samples = self.servers.ask("/v1/completions", payloads, reader.completions, prepare, abandoned)
        except Refusal as error:
            if error.status != 404:
                raise
            models: list[str] = []
            for client in self.servers.clients:
                with contextlib.suppress(TryAgain, ConfigError):
                    models += models_of(client)
            has = "it has" if len(self.servers.clients) == 1 else "there are"
            raise ConfigError(f"{error}; {has} the models {', '.join(dict.fromkeys(models))}") from None
        return [group * num_samples if greedy else group for group in samples]

    def _check_logprobs(self, client: Client, payload: Mapping[str, Any]) -> None:
        """Check that log-probabilities are those sampled from, after the temperature, as training needs.

        Raises:
            ConfigError: the server returns those before it, which is vLLM's default.
        """
        if client.url in self._scaled:
            return
        probe = {**payload, "n": 1, "max_tokens": 1, "top_p": 1.0, "logprobs": _PROBED}
        one, two = (client.ask("/v1/completions", {**probe, "temperature": t}, _unlikely) for t in (1.0, 2.0))
        if abs(two - one) <= 1e-3:
            raise ConfigError(
                f"sampling has a temperature other than 1, and the server {client.url} gives log-probabilities without it: "
                "start it with --logprobs-mode processed_logprobs, or set the temperature in data.rollout to 1"
            )
        self._scaled.add(client.url)


class FrozenEngine(Engine):
    """Sampling with the adapters as they were when it was made, however the policy's have changed since.

    Args:
        engine: sampling engine.
        folders: folders of the adapters.
        abandoned: set when the samples are no longer needed; a wait for them then raises `Abandoned`.
    """

    def __init__(self, engine: ServerEngine, folders: Mapping[Role, Path], abandoned: threading.Event) -> None:
        self.engine = engine
        self.folders = dict(folders)
        self.abandoned = abandoned

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; only the policy's tokenizer and base are used."""
        own: list[dict[str, Any]] = [{}] * len(prompts)
        folder = self.folders[role]
        return self.engine._generate(
            policy, role, prompts, num_samples, sampling, generator, own, folder, self.abandoned
        )


def _unlikely(answer: Any) -> float:
    """Return the log-probability of the fifth likeliest first token: a temperature changes it even if the first is certain."""
    try:
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return sorted((float(value) for value in top.values()), reverse=True)[:_PROBED][-1]
    except (TypeError, KeyError, IndexError, AttributeError, ValueError):
        raise _malformed("no log-probabilities of likely tokens") from None


class _Reader:
    """Reader of completions from a server's answers, which are not trusted."""

    def __init__(self, policy: Policy, count: int, limit: int, training: bool) -> None:
        self.tokenizer = policy.tokenizer
        self.count = count
        self.limit = limit
        self.training = training
        self.thinks_in_tokens = policy.thinks_in_tokens
        loaded, eos = policy.lm is not None, policy.tokenizer.eos_token_id
        end = eos if policy.end_of_turn is None else policy.end_of_turn
        self.end = [] if end is None else [end]
        self.stop = stop_ids(policy) if loaded else {i for i in (end, eos) if i is not None}
        self.vocabulary = policy.causal_lm.get_input_embeddings().num_embeddings if loaded else 2**31

    def completions(self, answer: Any) -> list[Completion]:
        """Return the completions of one prompt.

        Raises:
            TryAgain: the server broke off.
            ConfigError: the answer does not contain the completions requested.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise _malformed("no choices")
        if len(choices) != self.count:
            raise _malformed(f"{counted(len(choices), 'choice')} in place of {self.count}")
        return [self._completion(choice) for choice in choices]

    def _completion(self, choice: dict[str, Any]) -> Completion:
        reason = choice.get("finish_reason")
        if reason == "abort":  # the server is being stopped
            raise TryAgain("an answer that was broken off")
        if reason not in ("stop", "length"):
            raise _malformed(f"the finish_reason {str(reason)[:40]!r}")
        ended = reason == "stop"
        ids = choice.get("token_ids")
        if ids is None:
            return self._from_text(choice.get("text"), ended)
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < self.vocabulary for i in ids):
            raise _malformed("token ids that this model does not have")
        if not 1 <= len(ids) <= self.limit:
            raise _malformed(f"{counted(len(ids), 'token')} in place of 1 to {self.limit}")
        if self.training and ended and ids[-1] not in self.stop:
            raise _malformed(f"a turn that ends with token {ids[-1]}, at which this model does not stop")
        return Completion(torch.tensor(ids), self._logprobs(choice.get("logprobs"), len(ids)), ended)

    def _logprobs(self, given: Any, length: int) -> torch.Tensor:
        if not self.training:
            return torch.full((length,), math.nan)
        values = given.get("token_logprobs") if isinstance(given, dict) else None
        if (
            not isinstance(values, list)
            or len(values) != length
            or not all(type(v) in (int, float) and -1e6 < v < 0.1 for v in values)
        ):
            raise _malformed("not one log-probability a token")
        return torch.tensor(values, dtype=torch.float32)

    def _from_text(self, text: Any, ended: bool) -> Completion:
        if self.training:
            raise ConfigError(
                "the server gives no token ids (return_token_ids), and training needs the very tokens that were sampled: "
                "use vLLM 0.10.2 or newer"
            )
        if self.thinks_in_tokens:
            raise ConfigError(
                "the server gives text without token ids (return_token_ids), in which the thoughts of this base cannot be told "
                "from its answers, since special tokens part them: use vLLM 0.10.2 or newer, or a base that writes <think>"
            )
        if not isinstance(text, str):
            raise _malformed("neither token ids nor text")
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if ended:
            ids = [*ids, *self.end]
        return Completion(torch.tensor(ids, dtype=torch.long), torch.full((len(ids),), math.nan), ended)


def _malformed(what: str) -> ConfigError:
    return ConfigError(
        f"the server's answer has {what}: does data.engine.base_url serve completions of the base model.policy.model?"
    )

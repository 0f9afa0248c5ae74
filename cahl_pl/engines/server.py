"""Sampling on an OpenAI-compatible server; made for vLLM and tested with it.

Prompts go out and completions come back as token ids: nothing is tokenised again, and text of a request never becomes a
control token. An adapter that is being trained goes to the server through a folder that both can read, under a new name
for every new content: neither its weights nor what the server has cached of an older one can be used by mistake. (vLLM can
also replace an adapter in place, but then reads its file again at every step of the model, and versions before 0.32 go on
using cached keys and values of the old one: vllm-project/vllm issue 42125.)
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import Client, Refusal, TryAgain
from cahl_pl.plurals import counted
from cahl_pl.policy.endings import stop_ids
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.saved_adapters import write_adapter
from cahl_pl.types import Role

_NEUTRAL: Final = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said in every request: what is left out, vLLM takes from the model's generation_config.json."""

_PROBED: Final = 5
"""Likeliest tokens that are asked for to see whether log-probabilities follow the temperature."""


class _Adapter(NamedTuple):
    """An adapter on the server."""

    folder: Path
    state: tuple[int, ...]  # of the policy when it was written


class ServerEngine(Engine):
    """Sampling on a server that has the same base and both adapters.

    Args:
        base_url: address of the server, with or without `/v1` at its end.
        adapter_folder: folder that this process writes the adapters to and the server reads them from, under the same path;
            needed for training. None: the server has adapters of its own, which stay as they are.
        planner: name of the planner's adapter on the server, where there is no `adapter_folder`.
        executor: name of the executor's.
        timeout_s: seconds that one try of a request may take.
        retries: further tries of requests that were not answered, after 1, 2, 4, ... seconds, at most 60.
        api_key_env: name of the environment variable with the key that the server asks for; null for none.
        concurrency: most requests (one a prompt) under way at once.

    Raises:
        ConfigError: see `Client`.
    """

    def __init__(
        self,
        base_url: str,
        adapter_folder: str | None = None,
        planner: str = "planner",
        executor: str = "executor",
        timeout_s: float = 600.0,
        retries: int = 8,
        api_key_env: str | None = None,
        concurrency: int = 64,
    ) -> None:
        self.client = Client(base_url, timeout_s, retries, api_key_env, concurrency)
        self.adapter_folder = None if adapter_folder is None else Path(adapter_folder).expanduser().absolute()
        self.names: dict[Role, str] = {"planner": planner, "executor": executor}
        self._held: dict[Role, _Adapter] = {}
        self._scaled: bool | None = None  # whether the server's log-probabilities are those after the temperature

    def check_training(self) -> None:
        """See `Engine.check_training`."""
        if self.adapter_folder is None:
            raise ConfigError(
                "data.engine is a server whose adapters stay as they are, but training changes them: give "
                "data.engine.adapter_folder a folder that this process and the server can both read"
            )

    def generate(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[Sequence[int]],
        num_samples: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[list[Completion]]:
        """See `Engine.generate`; the policy may be one with a tokenizer and no model, where there is no `adapter_folder`.

        Each prompt has a seed of its own, drawn from `generator`; the same seed gives the same tokens only as far as the
        server computes the same numbers whatever else it is doing.

        Raises:
            ConfigError: the server does not answer, refuses, or answers with something else than completions.
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
        """See `Engine.generate_within`: by vLLM's structured outputs, whose back end has to be llguidance.

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
    ) -> list[list[Completion]]:
        """Sample; `own` is what each prompt's request has of its own."""
        greedy = sampling.temperature == 0  # all samples are the same then, and vLLM refuses to make several
        count = 1 if greedy else num_samples
        seeds = [0] * len(prompts) if greedy else torch.randint(2**31, (len(prompts),), generator=generator).tolist()
        reader = _Reader(policy, count, sampling.max_new_tokens, self.adapter_folder is not None)
        common = {"stop_token_ids": sorted(reader.stop), "logprobs": 0, "return_token_ids": True, **_NEUTRAL}
        common |= {"n": count, "max_tokens": sampling.max_new_tokens}
        common |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        payloads = [
            {**common, **more, "prompt": list(prompt), "seed": seed}
            for prompt, seed, more in zip(prompts, seeds, own, strict=True)
        ]
        checked = self.adapter_folder is not None and sampling.temperature not in (0, 1)

        def ask() -> list[list[Completion]]:
            model = self._model(policy, role)
            asked = [{"model": model, **payload} for payload in payloads]
            if checked and asked:
                self._check_logprobs(asked[0])
            return self.client.ask("/v1/completions", asked, reader.completions)

        samples = self._with_adapters(ask)
        return [group * num_samples if greedy else group for group in samples]

    def _with_adapters(self, ask: Callable[[], list[list[Completion]]]) -> list[list[Completion]]:
        """Ask; where the server does not know the adapter, as after a new start, load it again and ask once more.

        Raises:
            ConfigError: the server does not know it even so, or the adapters are its own.
        """
        try:
            try:
                return ask()
            except Refusal as error:
                if error.status != 404 or self.adapter_folder is None:
                    raise
            self._held.clear()
            return ask()
        except Refusal as error:
            if error.status != 404:
                raise
            raise ConfigError(f"{error}; it has the models {', '.join(self._models())}") from None

    def _model(self, policy: Policy, role: Role) -> str:
        """Return the server's name of the role's adapter as it is now; it is loaded there if it is not yet."""
        if self.adapter_folder is None:
            return self.names[role]
        state = (id(policy.lm), policy.version[role], policy.loads)
        old = self._held.get(role)
        if old is None or old.state != state:
            if policy.config.adapter != "lora":
                raise ConfigError(
                    "data.engine is a server, and vLLM cannot run activated adapters: use --model.policy.adapter lora"
                )
            if policy.config.use_dora:
                raise ConfigError(
                    "data.engine is a server, and vLLM cannot run DoRA: leave out model.policy.use_dora, or sample here"
                )
            new = _Adapter(write_adapter(policy, role, self.adapter_folder), state)
            self._load(new.folder)
            self._held[role] = new
            if old is not None and old.folder != new.folder:
                self._unload(old.folder)
        return self._held[role].folder.name

    def _load(self, folder: Path) -> None:
        if folder.name in self._models():
            return
        try:
            self.client.tell("/v1/load_lora_adapter", {"lora_name": folder.name, "lora_path": str(folder)})
        except Refusal as error:
            raise ConfigError(
                f"{error}: start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, --max-loras 2 and a "
                "--max-lora-rank of model.policy.lora_rank or more, where it can read data.engine.adapter_folder"
            ) from None

    def _unload(self, folder: Path) -> None:
        with contextlib.suppress(Refusal):  # it is gone already
            self.client.tell("/v1/unload_lora_adapter", {"lora_name": folder.name})
        shutil.rmtree(folder, ignore_errors=True)

    def _models(self) -> list[str]:
        """Return the names of the base and the adapters that the server has."""

        def read(answer: Any) -> list[str]:
            try:
                return [str(model["id"]) for model in answer["data"]]
            except (TypeError, KeyError):
                raise ConfigError(
                    f"the server {self.client.url} has no list of models: is data.engine.base_url that of an "
                    "OpenAI-compatible server?"
                ) from None

        return self.client.get("/v1/models", read)

    def _check_logprobs(self, payload: Mapping[str, Any]) -> None:
        """Training needs the log-probabilities of what was sampled from: those after the temperature.

        Raises:
            ConfigError: the server gives those before it, which is the default of vLLM.
        """
        if self._scaled is None:
            probe = {**payload, "n": 1, "max_tokens": 1, "top_p": 1.0, "logprobs": _PROBED}
            one, two = self.client.ask("/v1/completions", [{**probe, "temperature": t} for t in (1.0, 2.0)], _unlikely)
            self._scaled = abs(two - one) > 1e-3
        if not self._scaled:
            raise ConfigError(
                "sampling has a temperature other than 1, and the server gives log-probabilities without it: start it with "
                "--logprobs-mode processed_logprobs, or set the temperature in data.rollout to 1"
            )


def _unlikely(answer: Any) -> float:
    """Return the log-probability of the fifth likeliest first token: a temperature moves it even where the first is sure."""
    try:
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return sorted((float(value) for value in top.values()), reverse=True)[:_PROBED][-1]
    except (TypeError, KeyError, IndexError, AttributeError, ValueError):
        raise _malformed("no log-probabilities of likely tokens") from None


class _Reader:
    """Reader that makes completions of a server's answers, which are not trusted."""

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
            ConfigError: these are no completions of what was asked for.
        """
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise _malformed("no choices")
        if len(choices) != self.count:
            raise _malformed(f"{counted(len(choices), 'choice')} in place of {self.count}")
        return [self._completion(choice) for choice in choices]

    def _completion(self, choice: dict[str, Any]) -> Completion:
        reason = choice.get("finish_reason")
        if reason == "abort":  # it is being stopped
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

"""Transfer of adapters in training to servers: a folder that both sides read, and a new name for every content.

So neither an older adapter's weights nor what a server has cached of it can be used by mistake. (vLLM can also replace an
adapter in place, but then rereads its file at every step of the model, and versions before 0.32 keep using cached keys and
values of the old one: vllm-project/vllm issue 42125.) vLLM takes an adapter as a path on its own side or as a repository of the
Hugging Face hub, not over the network (`get_adapter_absolute_path` in its `lora/utils.py`), hence a folder.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

from cahl_pl.distributed import gather_over_processes
from cahl_pl.engines.servers import Prepare
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import Client, Refusal
from cahl_pl.policy.policy import Policy
from cahl_pl.policy.saved_adapters import write_adapter
from cahl_pl.types import ROLES, Role

_KEPT_FROZEN: Final = 3
"""Rounds whose adapters stay on the servers: the one being sampled, the one being trained on, and the one before, which
another process may still be sampling when this one has begun the next."""


class _Adapter(NamedTuple):
    """Adapter written from a state of the policy."""

    folder: Path
    state: tuple[int, ...]  # the policy's, when it was written


class ServedAdapters:
    """Adapters that are written here and read by servers.

    Args:
        folder: folder, under the same path on both sides; several runs may share it, and the servers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = uuid.uuid4().hex  # another run with equal adapters must not lose them when this one deletes its own
        self._current: dict[Role, _Adapter] = {}
        self._frozen: deque[dict[Role, Path]] = deque(maxlen=_KEPT_FROZEN)
        self._written: set[Path] = set()
        self._there: dict[str, set[str]] = {}  # address -> names of our adapters on this server
        self._lock = threading.Lock()

    def agree(self) -> None:
        """Make all processes of this run name an adapter alike, so that a server loads it once. All must call this."""
        self.run = gather_over_processes(self.run)[0]
        self._current.clear()

    def current(self, policy: Policy, role: Role) -> Path:
        """Return the folder of the role's current adapter, writing it if it does not exist yet.

        Raises:
            ConfigError: a server cannot run such an adapter, or it cannot be written.
        """
        state = (id(policy.lm), policy.version[role], policy.loads)
        held = self._current.get(role)
        if held is None or held.state != state:
            held = self._current[role] = _Adapter(self._write(policy, role), state)
            self._clear()
        return held.folder

    def freeze(self, policy: Policy) -> dict[Role, Path]:
        """Write both current adapters, and keep them while rounds are sampled with them. Raises as `current`."""
        folders = {role: self._write(policy, role) for role in ROLES}
        self._frozen.append(folders)
        self._clear()
        return folders

    def preparation(self, adapter: Path) -> Prepare:
        """Return a function that loads an adapter on a server and unloads those no longer used."""

        def prepare(client: Client, again: bool) -> None:
            there = self._there.setdefault(client.url, set())
            if again:
                there &= {*models_of(client)}
            if adapter.name not in there:
                self._load(client, adapter)
                there.add(adapter.name)
            for name in there - {folder.name for folder in self._used()}:
                with contextlib.suppress(Refusal):  # already unloaded
                    client.tell("/v1/unload_lora_adapter", {"lora_name": name})
                there.discard(name)

        return prepare

    def _write(self, policy: Policy, role: Role) -> Path:
        if policy.config.adapter != "lora":
            raise ConfigError(
                "data.engine is a server, and vLLM cannot run activated adapters: use --model.policy.adapter lora"
            )
        if policy.config.use_dora:
            raise ConfigError(
                "data.engine is a server, and vLLM cannot run DoRA: leave out model.policy.use_dora, or sample here"
            )
        folder = write_adapter(policy, role, self.folder, self.run)
        self._written.add(folder)
        return folder

    def _used(self) -> set[Path]:
        with self._lock:
            frozen = [folder for folders in self._frozen for folder in folders.values()]
            return {*frozen, *(adapter.folder for adapter in self._current.values())}

    def _clear(self) -> None:
        """Delete the folders that are no longer used."""
        for folder in self._written - self._used():
            shutil.rmtree(folder, ignore_errors=True)
            self._written.discard(folder)

    def _load(self, client: Client, folder: Path) -> None:
        if folder.name in models_of(client):
            return
        try:
            client.tell("/v1/load_lora_adapter", {"lora_name": folder.name, "lora_path": str(folder)})
        except Refusal as error:
            if folder.name in models_of(client):  # another process of this run was faster
                return
            if "No adapter found" in str(error):  # vLLM's words
                raise ConfigError(
                    f"{error}: the server cannot read data.engine.adapter_folder, and vLLM takes adapters from a folder alone, "
                    f"not by the network: let it see {str(self.folder)!r} under the same path, by a shared file system"
                ) from None
            raise ConfigError(
                f"{error}: start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, --max-loras 2 and a "
                "--max-lora-rank of model.policy.lora_rank or more, where it can read data.engine.adapter_folder"
            ) from None


def models_of(client: Client) -> list[str]:
    """Return the names of a server's base and adapters.

    Raises:
        ConfigError: it has no list of them.
        TryAgain: it does not answer.
    """

    def read(answer: Any) -> list[str]:
        try:
            return [str(model["id"]) for model in answer["data"]]
        except (TypeError, KeyError):
            raise ConfigError(
                f"the server {client.url} has no list of models: is data.engine.base_url that of an OpenAI-compatible server?"
            ) from None

    return client.ask("/v1/models", None, read)

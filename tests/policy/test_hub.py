"""A base that is no folder: whether the hub has it is said within seconds."""

from __future__ import annotations

import time

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import RepositoryNotFoundError

from cahl_pl.errors import PolicyError
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.hub import SECONDS, on_hub
from cahl_pl.policy.loading import model_folder


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    on_hub.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield
    on_hub.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers with, or by raising, what it is told; gives the names that it was asked for."""
    asked = []

    def answer(error=None):
        def model_info(self, name, timeout=None):
            asked.append((name, timeout))
            if error is not None:
                raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)
        return asked

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return answer


def told(model):
    with pytest.raises(PolicyError) as raised:
        model_folder(PolicyConfig(model=model))
    start, end = f"model.policy.model names {model!r}, which is no folder here and ", "; give a folder that is there, or the id"
    assert str(raised.value).startswith(start)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(start).partition(end)[0]


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(hub):
    asked = hub(ConnectionError("[Errno -2] Name or service not known\nmore"))
    began = time.monotonic()
    assert told("qwen4") == (
        "is not in the hub's cache, and the hub cannot be reached ([Errno -2] Name or service not known)"
    )
    assert asked == [("qwen4", SECONDS)]
    assert time.monotonic() - began < 5


def test_a_model_that_the_hub_does_not_have(hub):
    hub(RepositoryNotFoundError.__new__(RepositoryNotFoundError))
    assert told("Qwen/Qwen4") == (
        "no model that the Hugging Face Hub has, or shows to you (`hf auth login` shows private ones)"
    )


@pytest.mark.parametrize("name", ["my model", "a/b/c", "x" * 200, "--"])
def test_what_is_no_name(hub, name):
    asked = hub()
    assert told(name) == "no id of the Hugging Face Hub"
    assert asked == []


def test_a_hub_that_is_switched_off(hub, monkeypatch):
    asked = hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert told("qwen4") == "is not in the hub's cache, and the hub is not asked, since HF_HUB_OFFLINE is set"
    assert asked == []


def test_what_the_hub_has_is_asked_for_once(hub):
    asked = hub()
    for _ in range(3):
        assert model_folder(PolicyConfig(model="Qwen/Qwen3")) == "Qwen/Qwen3"
    assert len(asked) == 1


def cached(tmp_path, monkeypatch):
    """Put a base into the cache, as the hub's library does; its folder."""
    folder = tmp_path / "models--Qwen--Qwen3" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(
        "transformers.utils.cached_file", lambda name, file, local_files_only: str(folder / file)
    )
    return str(folder)


def test_without_a_hub_the_cache_is_taken_as_a_folder(hub, tmp_path, monkeypatch, capsys):
    """So nothing below asks the hub for each of its files, again and again, for minutes."""
    folder = cached(tmp_path, monkeypatch)
    hub(ConnectionError("no network"))
    for _ in range(2):
        assert model_folder(PolicyConfig(model="Qwen/Qwen3")) == folder
    said = f"note: 'Qwen/Qwen3' is taken from the hub's cache, since the hub does not answer for it: {folder}\n"
    assert capsys.readouterr().out == said
    on_hub.cache_clear()
    asked = hub()
    assert model_folder(PolicyConfig(model="Qwen/Qwen3")) == "Qwen/Qwen3"  # there may be a newer one
    assert len(asked) == 2


def test_with_the_hub_switched_off_the_cache_is_taken(hub, tmp_path, monkeypatch):
    folder = cached(tmp_path, monkeypatch)
    asked = hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(PolicyConfig(model="Qwen/Qwen3")) == folder
    assert asked == []

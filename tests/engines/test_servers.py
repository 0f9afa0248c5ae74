"""Several servers: who answers does not matter, who is gone is left out and taken back, and who answers nonsense is named."""

from __future__ import annotations

import threading
import time
import zlib

import pytest
import torch

from cahl_pl.engines import Sampling, ServerEngine
from cahl_pl.engines.servers import Abandoned, Servers
from cahl_pl.errors import ConfigError
from cahl_pl.types import ROLES

PROMPTS = [[10 + i, 20, 30] for i in range(12)]


def engine_of(stubs, folder, **settings):
    return ServerEngine([stub.url for stub in stubs], str(folder / "adapters"), **settings)


def generate(engine, policy, role="planner", prompts=PROMPTS):
    generator = torch.Generator().manual_seed(0)
    samples = engine.generate(policy, role, prompts, 2, Sampling(1.0, 1.0, 5), generator)
    words = [str([(c.ids.tolist(), c.logprobs.tolist()) for c in group]) for group in samples]
    return [zlib.crc32(text.encode()) for text in words]  # short, so that a difference is shown at once


def move(policy, role="planner"):
    """What an optimiser step does."""
    with torch.no_grad():
        for parameter in policy.parameters_of(role):
            parameter.add_(0.125)
    policy.version[role] += 1


def revive_after(witness, answers, dead, **state):
    """Give a server another state once another one has answered so often."""

    def change(choices):
        if witness.answered == answers:
            dead.__dict__.update(state)
        return choices

    witness.change = change


@pytest.fixture
def expected(stub, policy, tmp_path):
    """What one server alone answers."""
    return generate(engine_of([stub()], tmp_path), policy)


def test_samples_do_not_depend_on_who_answers_and_keep_the_order_of_the_prompts(stub, policy, tmp_path, expected):
    pair = stub(), stub()
    assert generate(engine_of(pair, tmp_path, concurrency=2), policy) == expected
    assert all(one.answered for one in pair)
    assert sum(one.answered for one in pair) == len(PROMPTS)


def test_the_faster_of_two_servers_answers_more(stub, policy, tmp_path, expected):
    slow, fast = stub(seconds=0.4), stub(seconds=0.02)
    assert generate(engine_of([slow, fast], tmp_path, concurrency=2), policy) == expected
    assert 1 <= slow.answered < fast.answered
    assert slow.answered + fast.answered == len(PROMPTS)
    assert max(slow.at_once, fast.at_once) <= 2


def test_requests_go_to_the_server_with_the_fewest_under_way(stub, policy, tmp_path):
    stubs = stub(seconds=0.5), stub(seconds=0.5), stub(seconds=0.5)
    generate(engine_of(stubs, tmp_path), policy)
    assert [one.answered for one in stubs] == [4, 4, 4]


@pytest.mark.parametrize(
    ("last_words", "said"),
    [
        (None, "no answer ("),
        ("EngineCore encountered an issue.", "HTTP status 500 (EngineCore encountered an issue.)"),
    ],
)
def test_one_that_dies_in_the_middle_is_left_out_and_nothing_is_lost(
    stub, policy, tmp_path, expected, capsys, last_words, said
):
    dying, other = stub(seconds=0.05), stub(seconds=0.05)
    dying.dies_after, dying.last_words = 2, last_words
    assert generate(engine_of([dying, other], tmp_path, concurrency=1), policy) == expected
    assert dying.answered == 2
    assert other.answered == len(PROMPTS) - 2
    (line, *_) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"server {dying.url}: {said}")
    assert line.endswith("; left out, 1 of 2 servers go on; asked again in 1 s")


def test_one_that_is_back_gets_the_present_adapter_before_it_is_asked(stub, policy, tmp_path, capsys):
    dying, other = stub(seconds=0.01), stub(seconds=0.3)
    engine = engine_of([dying, other], tmp_path, concurrency=1)
    generate(engine, policy)
    dying.dies_after = dying.answered
    move(policy)
    generate(engine, policy)
    (old,) = dying.adapters
    assert old not in other.adapters
    dying.dies_after, dying.adapters = None, {}  # it was started again
    other.answered = dying.answered = 0
    assert "left out" in capsys.readouterr().out
    time.sleep(1.1)
    move(policy)
    expected = generate(ServerEngine(other.url, str(tmp_path / "other")), policy)
    other.answered = 0
    assert generate(engine, policy) == expected
    assert dying.adapters.keys() <= other.adapters.keys()
    assert dying.answered > 0 < other.answered
    assert f"server {dying.url}: back" in capsys.readouterr().out
    assert not dying.unknown  # it was never asked for one that it did not have


def test_one_that_comes_back_within_a_round_takes_part_in_it_again(stub, policy, tmp_path, expected, capsys):
    flaky, other = stub(seconds=0.02), stub(seconds=0.5)
    flaky.dies_after = 1
    revive_after(other, 3, flaky, dies_after=None)
    assert generate(engine_of([flaky, other], tmp_path, concurrency=1), policy) == expected
    assert flaky.answered > 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[-1].split(": ")[-1] for line in lines][-1] == "back"


def test_all_gone_is_one_sentence_in_bounded_time(stub, policy, tmp_path, waits):
    stubs = stub(), stub()
    engine = engine_of(stubs, tmp_path, retries=3)
    generate(engine, policy)
    for one in stubs:
        one.dies_after = 0
    with pytest.raises(ConfigError) as raised:
        generate(engine, policy)
    message = str(raised.value)
    for one in stubs:
        assert f"the server {one.url} gave no answer (" in message
    assert message.endswith("start one again or " + message.split("start one again or ")[1])
    assert "--ckpt_path last" in message
    assert "\n" not in message
    for one in stubs:
        one.dies_after = None
    generate(engine, policy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda choices: choices[:1], "1 choice in place of 2"),
        (lambda choices: choices * 2, "4 choices in place of 2"),
        (lambda choices: {"a": choices}, "no choices"),
        (lambda choices: [{**choices[0], "token_ids": [[5, 2]]}] * 2, "token ids that this model does not have"),
        (
            lambda choices: [{**choices[0], "logprobs": {"token_logprobs": [-1.0]}}] * 2,
            "not one log-probability a token",
        ),
    ],
)
def test_one_that_lies_is_named_and_nothing_of_the_round_is_used(stub, policy, tmp_path, change, words):
    honest, liar = stub(seconds=0.3), stub()
    liar.change = change
    with pytest.raises(ConfigError, match=rf"{liar.url}: the server's answer has {words}: .*base_url"):
        generate(engine_of([honest, liar], tmp_path), policy)


def test_one_that_cannot_read_the_folder_is_named_at_the_start(stub, policy, tmp_path):
    reads, does_not = stub(), stub()
    does_not.reads = False
    with pytest.raises(
        ConfigError, match=r"No adapter found .* cannot read data\.engine\.adapter_folder, .* same path"
    ):
        engine_of([reads, does_not], tmp_path).start_training(policy)
    assert reads.answered == does_not.answered == 0


def test_at_the_start_all_get_both_adapters_and_one_that_is_away_is_said(stub, policy, tmp_path, capsys):
    stubs = stub(), stub()
    away = "http://127.0.0.1:1"
    engine = ServerEngine([*(one.url for one in stubs), away], str(tmp_path / "adapters"))
    engine.start_training(policy)
    for one in stubs:
        assert sorted(name.split("-")[0] for name in one.adapters) == sorted(ROLES)
    assert f"server {away}: no answer (ConnectionRefusedError); left out" in capsys.readouterr().out
    assert len(generate(engine, policy)) == len(PROMPTS)


def test_at_the_start_with_all_away_the_run_ends(policy, tmp_path, waits):
    with pytest.raises(ConfigError, match=r"no answer \(ConnectionRefusedError\), 3 times: start it again"):
        ServerEngine("http://127.0.0.1:1", str(tmp_path / "adapters"), retries=2).start_training(policy)


def test_one_that_refuses_the_adapters_when_it_is_back_stays_out(stub, policy, tmp_path, capsys):
    other, again = stub(seconds=0.2), stub()
    engine = engine_of([other, again], tmp_path, concurrency=1)
    again.dies_after = 1
    revive_after(other, 3, again, dies_after=None, adapters={}, reads=False)
    assert len(generate(engine, policy)) == len(PROMPTS)
    assert again.answered == 1
    assert "cannot read data.engine.adapter_folder" in capsys.readouterr().out


def test_an_adapter_that_another_process_was_faster_to_load_is_no_fault(stub, policy, tmp_path):
    one = stub()
    one.forgets_to_list = 1  # between the list and the loading, somebody else loads it
    engine_of([one], tmp_path).start_training(policy)
    assert len(one.adapters) == 2


def test_a_frozen_engine_goes_on_with_the_adapters_as_they_were(stub, policy, tmp_path, expected):
    one = stub()
    engine = engine_of([one], tmp_path)
    frozen = engine.freeze(policy, threading.Event())
    assert generate(frozen, policy) == expected
    for _ in range(2):
        move(policy)
        assert generate(engine, policy) != expected  # an evaluation in between
        assert generate(frozen, policy) == expected
    for _ in range(3):  # three rounds later nobody needs it
        move(policy)
        engine.freeze(policy, threading.Event())
    generate(engine, policy)
    folders = {folder.name for folder in (tmp_path / "adapters").iterdir()}
    assert frozen.folders["planner"].name not in folders | one.adapters.keys()


def test_a_run_with_equal_adapters_keeps_them_when_another_gives_up_its_own(
    stub, policy, make_policy, tmp_path, expected
):
    one, second = stub(), make_policy()
    first_run, second_run = engine_of([one], tmp_path), engine_of([one], tmp_path)  # one folder, one server, one seed
    assert generate(first_run, policy) == generate(second_run, second) == expected
    move(policy)
    generate(first_run, policy)
    assert generate(second_run, second) == expected
    assert not one.unknown


def test_whoever_waits_for_abandoned_answers_is_let_go(stub):
    one, abandoned = stub(seconds=30.0), threading.Event()
    threading.Timer(0.1, abandoned.set).start()
    began = time.monotonic()
    with pytest.raises(Abandoned):
        Servers([one.url]).ask("/v1/models", [None], lambda answer: answer, abandoned=abandoned)
    one.gone.set()
    assert time.monotonic() - began < 10

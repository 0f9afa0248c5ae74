"""Schedules and samplers of a user's own that give what is none, or raise: one sentence with the class."""

from __future__ import annotations

import re

import pytest

from cahl_pl.errors import ConfigError
from cahl_pl.rollout.training_round import RoundTasks
from cahl_pl.sampling import Shuffled
from cahl_pl.schedules import Schedule, roles_of
from cahl_pl.toolworld import ToolWorld


class Mine(Schedule):
    """Gives, or raises, what it is told to."""

    def __init__(self, what):
        self.what = what

    def roles(self, round_index):
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


@pytest.mark.parametrize("what", [("planner",), ["executor"], ("executor", "planner")])
def test_roles_that_can_step(what):
    assert roles_of(Mine(what), 3) == tuple(what)
    assert [role for _, role in Mine(what).planned_steps(1, 1, None)] == list(what)


@pytest.mark.parametrize("what", [(), None, "planner", ("worker",), ("planner", "planner"), ("planner", None), {"planner"}, 2])
def test_roles_that_cannot_are_refused(what):
    said = f"{__name__}.Mine.roles gives {what!r} for round 3: give a tuple of 'planner' or 'executor' or of both, each once"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        roles_of(Mine(what), 3)


def test_what_a_schedule_raises_is_told():
    with pytest.raises(ConfigError, match=r"Mine\.roles raised IndexError \(x\) for round 3 in .*, line \d+: correct it$"):
        roles_of(Mine(IndexError("x")), 3)


class Draws(Shuffled):
    def __init__(self, drawn, more=None):
        self.drawn, self.more = drawn, more

    def draw(self, *position):
        if isinstance(self.drawn, BaseException):
            raise self.drawn
        return self.drawn

    def refill(self, *position):
        return self.more


def round_of(sampler):
    return RoundTasks(ToolWorld(size=4), sampler, 2, 0, 0, 1, 0, 1)


WRONG = [None, (0, 1), [0.5], ["0"], [4], [-1], [True], [0, 0], {0: 1}, 3]


@pytest.mark.parametrize("drawn", [*WRONG, []])
def test_what_is_no_draw_is_refused(drawn):
    said = f"{__name__}.Draws.draw gives {drawn!r}: give a list of different numbers from 0 to 3, the tasks' indices"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        round_of(Draws(drawn))


@pytest.mark.parametrize("drawn", WRONG)
def test_what_is_no_refill_is_refused(drawn):
    with pytest.raises(ConfigError, match=r"Draws\.refill gives .*: give a list of different numbers from 0 to 3"):
        round_of(Draws([0], drawn)).draw_more(0, 1.0)


def test_a_refill_may_be_empty():
    assert round_of(Draws([0], [])).draw_more(0, 1.0) is None
    assert [task.id for task in round_of(Draws([0], [3])).draw_more(0, 1.0)] == [ToolWorld(size=4)[3].id]


def test_what_a_sampler_raises_is_told():
    with pytest.raises(ConfigError, match=r"Draws\.draw raised KeyError \('x'\) for round 1 of epoch 0 in .*: correct it$"):
        round_of(Draws(KeyError("x")))

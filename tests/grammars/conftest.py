"""Grammars at work without a model: what they take, and what is drawn at random within them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from cahl_pl.grammars import Grammars
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.constraint import Compiler
from cahl_pl.policy.loading import load_tokenizer
from cahl_pl.prompts import PromptBuilder
from cahl_pl.types import Message, Task, ToolSpec

CLOSING = ('"', "}", "]", "</answer>")


class Bench:
    """A tokenizer with its compiler, and grammars for it."""

    def __init__(self, tokenizer, prompts=None):
        self.tokenizer = tokenizer
        self.builder = PromptBuilder(tokenizer, prompts)
        self.grammars = Grammars(4)
        self.compiler = Compiler(tokenizer, [self.builder.end_of_turn], len(tokenizer))

    def matcher(self, output, task):
        return self.compiler.matcher(self.grammars.of(output, self.builder, task))

    def takes(self, output, task, text):
        """Whether the grammar takes a text as a whole."""
        matcher = self.matcher(output, task)
        return all(matcher.try_consume_tokens([i]) for i in self._ids(text)) and bool(matcher.is_accepting())

    def draw(self, output, task, seed, limit=3000):
        """A text drawn at random within the grammar; what closes something is drawn more often, so that it ends."""
        matcher, chance, drawn = self.matcher(output, task), random.Random(seed), []
        while not matcher.is_stopped() and len(drawn) < limit:
            bits = np.unpackbits(self.compiler.bits([matcher])[0], count=self.compiler.vocabulary, bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            ids = [chance.choice(allowed)]
            if ids == [self.builder.end_of_turn]:
                return self.tokenizer.decode(drawn)
            if chance.random() < 0.15:
                closing = self._ids(chance.choice(CLOSING))
                other = matcher.deep_copy()
                ids = closing if all(other.try_consume_tokens([i]) for i in closing) else ids
            assert all(matcher.try_consume_tokens([i]) for i in ids), "a token that was allowed is not taken"
            drawn += ids
        assert matcher.is_stopped(), "no end"
        return self.tokenizer.decode(drawn)

    def _ids(self, text):
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.fixture(scope="session")
def words() -> Bench:
    """The tokenizer of ToolWorld's model, to which the tags are single tokens."""
    return Bench(load_tokenizer(PolicyConfig(model="toolworld")))


@pytest.fixture(scope="session")
def letters(tiny_model) -> Bench:
    """A tokenizer of bytes, to which the tags are text."""
    return Bench(AutoTokenizer.from_pretrained(tiny_model))


@pytest.fixture(params=["words", "letters"])
def bench(request) -> Bench:
    return request.getfixturevalue(request.param)


@pytest.fixture
def task_of():
    """A task with one tool `use` of these parameters."""

    def make(properties, required=None, **schema):
        listed = list(properties) if required is None else required
        parameters = {"type": "object", "properties": properties, "required": listed, **schema}
        return Task("t", (Message("user", "Do it."),), (ToolSpec("use", "", parameters),))

    return make

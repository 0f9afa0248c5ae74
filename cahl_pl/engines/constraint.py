"""Grammars while tokens are drawn: which tokens may come next, by llguidance.

A matcher is asked for the tokens that may follow, and told the one that was drawn. The masks are NumPy's: llguidance's own
for torch are compiled at their first use, which takes a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cahl_pl.errors import ConfigError

_KEPT: Final = 256
"""Compiled grammars that are kept; when there are more, all are dropped."""


class Compiler:
    """Compiler of grammars for one tokenizer.

    Args:
        tokenizer: a fast one of transformers.
        stop: the ids that end a completion, the usual one first.
        vocabulary: number of tokens that the model knows.

    Raises:
        ConfigError: llguidance is missing, or cannot read the tokenizer.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[int], vocabulary: int) -> None:
        try:
            import llguidance
            import llguidance.hf
            import llguidance.numpy
        except ImportError:
            raise ConfigError(
                "data.inference.constrained needs the package llguidance: pip install 'cahl-pl[constrained]'"
            ) from None
        self._library = llguidance
        self.vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stop))
        except Exception as error:  # of its own kinds, or of the Rust below
            raise ConfigError(
                f"data.inference.constrained cannot work with this tokenizer ({error}): use a model with a fast one"
            ) from None
        self._compiled: dict[str, Any] = {}

    def matcher(self, grammar: str) -> Any:
        """Return a matcher at its beginning.

        Raises:
            ConfigError: the grammar cannot be compiled.
        """
        if grammar not in self._compiled:
            made = self._library.LLMatcher(self._tokenizer, grammar)
            if made.is_error():
                reason = " ".join(made.get_error().split())[:300]
                raise ConfigError(
                    f"data.inference.constrained: no grammar can be made of the tools of a task ({reason}); simplify their "
                    "schemas, or leave it out"
                )
            if len(self._compiled) >= _KEPT:
                self._compiled.clear()
            self._compiled[grammar] = made
        return self._compiled[grammar].deep_copy()

    def masks(self, matchers: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which tokens may come next, [B, V]."""
        masks = self._library.numpy.allocate_token_bitmask(len(matchers), self.vocabulary)
        for i, matcher in enumerate(matchers):
            self._library.numpy.fill_next_token_bitmask(matcher, masks, i)
        bits = np.unpackbits(masks.view(np.uint8), axis=1, count=self.vocabulary, bitorder="little")
        return bits.view(np.bool_)


class Matchers:
    """The matchers of some completions.

    Args:
        compiler: made them.
        matchers: one a completion.
    """

    def __init__(self, compiler: Compiler, matchers: Sequence[Any]) -> None:
        self.compiler = compiler
        self.matchers = list(matchers)

    def of(self, which: Sequence[int]) -> Matchers:
        """Return those of some of the completions; they move on together with these."""
        return Matchers(self.compiler, [self.matchers[i] for i in which])

    def after(self, tokens: Sequence[Tensor]) -> Matchers:
        """Return the matchers behind the first tokens of each completion, [C_i]."""
        moved = [matcher.deep_copy() for matcher in self.matchers]
        for matcher, ids in zip(moved, tokens, strict=True):
            for token in ids.tolist():
                _move(matcher, token)
        return Matchers(self.compiler, moved)

    def at(self, which: np.ndarray[Any, Any]) -> Within:
        """Return the constraint on the next token of some completions, by index [B]."""
        return Within(self.compiler, [self.matchers[i] for i in which.tolist()])

    def along(self, completion: int, draft: Sequence[int]) -> Within:
        """Return the constraint on the tokens at, and behind, those of a draft: as if it were being written."""
        matcher, states = self.matchers[completion].deep_copy(), []
        for token in draft:
            states.append(matcher.deep_copy())
            if not _move(matcher, token):
                break  # the draft breaks the grammar here, and what is behind it is not looked at
        else:
            states.append(matcher)
        return Within(self.compiler, states)


class Within:
    """Constraint on one token of each of some completions.

    Args:
        compiler: of their grammars.
        matchers: of the first of them; there is none on the others.
    """

    def __init__(self, compiler: Compiler, matchers: Sequence[Any]) -> None:
        self.compiler = compiler
        self.matchers = matchers

    def mask(self, logits: Tensor) -> Tensor:
        """Return the logits [B, V] with those of tokens that may not come at minus infinity."""
        allowed = np.zeros((len(logits), logits.shape[-1]), dtype=np.bool_)
        masks = self.compiler.masks(self.matchers)
        width = min(allowed.shape[1], masks.shape[1])
        allowed[: len(masks), :width] = masks[:, :width]
        allowed[len(masks) :] = True
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def take(self, tokens: Tensor) -> None:
        """Move on by the tokens that were drawn, [B]."""
        for matcher, token in zip(self.matchers, tokens.tolist(), strict=False):
            _move(matcher, token)


def _move(matcher: Any, token: int) -> bool:
    """Return whether a matcher takes a token; what ends the turn behind a whole output is none of the grammar's."""
    if matcher.is_stopped():
        return True
    return bool(matcher.try_consume_tokens([token]))

"""Grammars and tokens: the tokens that llguidance allows next, both in sampling and in training.

A matcher is asked for the tokens that may follow, and told the one that was drawn. The allowed tokens are kept as one bit
each: as booleans they would take a quarter of the logits' memory. The masks are NumPy's: llguidance's own for torch are
compiled at their first use, which takes a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cahl_pl.errors import ConfigError
from cahl_pl.policy.endings import stop_ids
from cahl_pl.policy.policy import Policy

Bits: TypeAlias = NDArray[np.uint8]
"""The allowed tokens, one bit each, the lowest of a byte first, [B, W]."""

FORBIDDEN: Final = -1e30
"""The logit of a forbidden token: its probability is 0, and 0 times its logarithm is a number."""

ROWS_AT_A_TIME: Final = 64
"""Rows of logits whose bits are expanded at once."""

_KEPT: Final = 256
"""Number of compiled grammars that are kept; when there are more, all are dropped."""


def check_installed() -> None:
    """Check that the library for grammars is installed.

    Raises:
        ConfigError: llguidance is missing.
    """
    try:
        import llguidance
        import llguidance.hf
        import llguidance.numpy  # noqa: F401
    except ImportError:
        raise ConfigError("grammars need the package llguidance: pip install 'cahl-pl[constrained]'") from None


class Compiler:
    """Compiler of grammars for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        stop: the ids that end a completion, the usual one first.
        vocabulary: number of tokens that the model knows.

    Raises:
        ConfigError: llguidance is missing, or cannot read the tokenizer.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[int], vocabulary: int) -> None:
        check_installed()
        import llguidance
        import llguidance.hf
        import llguidance.numpy

        self._library = llguidance
        self.vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stop))
        except Exception as error:  # of its own types, or of the Rust below
            raise ConfigError(
                f"grammars cannot work with this tokenizer ({error}): use a model with a fast one, or leave out "
                "data.inference.constrained and data.rollout.constrained"
            ) from None
        self._compiled: dict[str, Any] = {}

    def matcher(self, grammar: str) -> Any:
        """Return a matcher at the start of a grammar.

        Raises:
            ConfigError: the grammar cannot be compiled.
        """
        if grammar not in self._compiled:
            made = self._library.LLMatcher(self._tokenizer, grammar)
            if made.is_error():
                reason = " ".join(made.get_error().partition("<backtrace>")[0].split())[:300]
                raise ConfigError(
                    f"no grammar can be made of the tools of a task ({reason}): simplify their schemas, or leave out "
                    "data.inference.constrained and data.rollout.constrained"
                )
            if len(self._compiled) >= _KEPT:
                self._compiled.clear()
            self._compiled[grammar] = made
        return self._compiled[grammar].deep_copy()

    def bits(self, matchers: Sequence[Any | None]) -> Bits:
        """Return the tokens that may come next, [B, W]; all of them where there is no matcher."""
        masks = self._library.numpy.allocate_token_bitmask(len(matchers), self.vocabulary)
        for i, matcher in enumerate(matchers):
            if matcher is not None:
                self._library.numpy.fill_next_token_bitmask(matcher, masks, i)
        return masks.view(np.uint8)


def compiler_of(policy: Policy) -> Compiler:
    """Return the compiler of grammars for a policy's tokenizer; made once.

    Raises:
        ConfigError: see `Compiler`.
    """
    first = [i for i in (policy.end_of_turn,) if i is not None]
    stop = [*first, *sorted(stop_ids(policy).difference(first))]
    key = (id(policy.lm), *stop)
    if policy.compiler is None or policy.compiler[0] != key:
        size = policy.causal_lm.get_input_embeddings().num_embeddings
        policy.compiler = key, Compiler(policy.tokenizer, stop, size)
    compiler: Compiler = policy.compiler[1]
    return compiler


def forbid(logits: Tensor, bits: Bits) -> None:
    """Set the logits of forbidden tokens to `FORBIDDEN`.

    Args:
        logits: [B, V], changed in place.
        bits: bits of the same rows; a row that forbids something also forbids tokens without a bit.
    """
    for start in range(0, len(logits), ROWS_AT_A_TIME):
        rows = logits[start : start + ROWS_AT_A_TIME]
        rows.masked_fill_(forbidden(bits[start : start + ROWS_AT_A_TIME], rows), FORBIDDEN)


def forbidden(bits: Bits, logits: Tensor) -> Tensor:
    """Return the forbidden tokens, a boolean each, for logits [B, V], on their device."""
    packed = torch.from_numpy(bits).to(logits.device, non_blocking=True)
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)
    found = (packed[..., None] >> places).bitwise_and_(1).flatten(1) == 0
    missing = logits.shape[1] - found.shape[1]
    if missing > 0:  # no grammar knows what these tokens are
        found = torch.cat([found, found.any(1, keepdim=True).expand(-1, missing)], dim=1)
    return found[:, : logits.shape[1]]


class Matchers:
    """The matchers of some completions.

    Args:
        compiler: the compiler that made them.
        matchers: one per completion.
    """

    def __init__(self, compiler: Compiler, matchers: Sequence[Any]) -> None:
        self.compiler = compiler
        self.matchers = list(matchers)

    def of(self, which: Sequence[int], samples: int = 1) -> Matchers:
        """Return copies for some of the completions, `samples` of each, which advance independently."""
        return Matchers(self.compiler, [self.matchers[i].deep_copy() for i in which for _ in range(samples)])

    def after(self, tokens: Sequence[Tensor]) -> Matchers:
        """Return the matchers advanced by the first tokens of each completion, [C_i]."""
        moved = [matcher.deep_copy() for matcher in self.matchers]
        for matcher, ids in zip(moved, tokens, strict=True):
            for token in ids.tolist():
                _move(matcher, token)
        return Matchers(self.compiler, moved)

    def at(self, which: NDArray[Any]) -> Within:
        """Return the constraint on the next token of some completions, by index [B]; an index below 0 has none."""
        return Within(self.compiler, [None if i < 0 else self.matchers[i] for i in which.tolist()])

    def along(self, completion: int, draft: Sequence[int]) -> Within:
        """Return the constraint on each token of a draft and on the one after it, as if it were being written."""
        matcher, states = self.matchers[completion].deep_copy(), []
        for token in draft:
            states.append(matcher.deep_copy())
            if not _move(matcher, token):
                break  # the draft breaks the grammar here; what follows is not checked
        else:
            states.append(matcher)
        return Within(self.compiler, states + [None] * (len(draft) + 1 - len(states)))


class Within:
    """Constraint on one token of each of some completions.

    Args:
        compiler: the compiler of their grammars.
        matchers: one for each of them; None where nothing is forbidden.
    """

    def __init__(self, compiler: Compiler, matchers: Sequence[Any | None]) -> None:
        self.compiler = compiler
        self.matchers = matchers

    def hold(self, logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens so low, in place, that they are never drawn."""
        forbid(logits, self.compiler.bits(self.matchers))

    def take(self, tokens: Tensor) -> None:
        """Advance by the tokens that were drawn, [B]."""
        for matcher, token in zip(self.matchers, tokens.tolist(), strict=True):
            if matcher is not None:
                _move(matcher, token)


class Replay:
    """Constraints of completions, reconstructed from their tokens: a few tokens at a time, in order.

    Args:
        compiler: the compiler of the grammars.
        completions: token ids of each, [C_i], and its grammar; None if it was drawn freely.
    """

    def __init__(self, compiler: Compiler, completions: Sequence[tuple[Tensor, str | None]]) -> None:
        self.compiler = compiler
        self._rest = ((token, grammar, i == 0) for ids, grammar in completions for i, token in enumerate(ids.tolist()))
        self._matcher: Any = None

    def next(self, count: int) -> Bits:
        """Return the tokens that were allowed at each of the next `count` positions, [count, W].

        Raises:
            ConfigError: a token that was drawn is not allowed.
        """
        parts = []
        for _ in range(count):
            token, grammar, first = next(self._rest)
            if first:
                self._matcher = None if grammar is None else self.compiler.matcher(grammar)
            parts.append(self.compiler.bits([self._matcher]))
            if self._matcher is not None:
                if not parts[-1][0, token // 8] >> (token % 8) & 1:
                    raise ConfigError(
                        f"token {token} was sampled, but its grammar does not allow it where it stands: the outputs are of "
                        "another tokenizer or version of llguidance; go on from a checkpoint at the end of a round"
                    )
                _move(self._matcher, token)
        return np.concatenate(parts)


def _move(matcher: Any, token: int) -> bool:
    """Return whether a matcher accepts a token; the end of turn after a complete output is not part of the grammar."""
    if matcher.is_stopped():
        return True
    return bool(matcher.try_consume_tokens([token]))

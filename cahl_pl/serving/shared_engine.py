"""One engine for many conversations: orders that arrive while it is busy are sampled together next."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch

from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.policy.policy import Policy
from cahl_pl.types import Role


@dataclass(frozen=True, eq=False)
class Order:
    """Order for one completion.

    Attributes:
        role: the adapter.
        prompt: token ids.
        sampling: settings of the sampling.
        draft: a guess at it; empty for none.
        grammar: grammar that it must follow, or None.
        seed: seed of the sampling; None for any. If sampling is not greedy, only orders without one share a batch.
        result: the completion, once available; cancelled when no longer needed.
    """

    role: Role
    prompt: tuple[int, ...]
    sampling: Sampling
    draft: tuple[int, ...] = ()
    grammar: str | None = None
    seed: int | None = None
    result: Future[Completion] = field(default_factory=Future)

    @property
    def kind(self) -> Any:
        """The values that orders of one batch have in common."""
        sampling = self.sampling
        seed = None if sampling.temperature == 0 else self.seed
        return self.role, self.grammar is None, sampling.temperature, sampling.top_p, sampling.max_new_tokens, seed


class SharedEngine:
    """Sampler for many threads with one engine, in its own thread, which takes all waiting orders at once.

    Args:
        engine: samples tokens.
        policy: the base and its adapters.
        batches: whether one batch at a time is sampled, as an engine in this process must; False if the engine takes
            orders from many threads and a server behind it batches them.
    """

    def __init__(self, engine: Engine, policy: Policy, batches: bool = True) -> None:
        self.engine = engine
        self.policy = policy
        self.batches = batches
        self._waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._generator = torch.Generator().manual_seed(torch.seed() % 2**63)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        if batches:
            self._thread.start()

    def take(self, order: Order) -> Future[Completion]:
        """Submit an order; its result may be awaited or cancelled.

        Raises:
            ConfigError: the sequence is too long for the base.
        """
        if not self.batches:
            self._sample([order])
            return order.result
        self.policy.check_length(len(order.prompt) + order.sampling.max_new_tokens)  # here, so that one cannot fail a batch
        self._waiting.put(order)
        return order.result

    def close(self) -> None:
        """Stop once the current batch is done; no other is sampled."""
        if self.batches:
            self._waiting.put(None)
            self._thread.join(timeout=60)

    def _work(self) -> None:
        held: list[Order] = []
        while True:
            new, closed = self._all_waiting(block=not held)
            held = [order for order in held + new if not order.result.cancelled()]
            if closed:
                for order in held:
                    order.result.cancel()
                return
            if held:
                together = [order for order in held if order.kind == held[0].kind]
                held = [order for order in held if order.kind != together[0].kind]
                self._sample(together)

    def _all_waiting(self, block: bool) -> tuple[list[Order], bool]:
        """Return the waiting orders, and whether no more will come; `block` waits for the first of them."""
        orders: list[Order] = []
        while True:
            try:
                order = self._waiting.get(block=block and not orders)
            except queue.Empty:
                return orders, False
            if order is None:
                return orders, True
            orders.append(order)

    def _sample(self, orders: list[Order]) -> None:
        first = orders[0]
        generator = self._generator if first.seed is None else torch.Generator().manual_seed(first.seed)
        prompts = [order.prompt for order in orders]
        try:
            drafts = [order.draft for order in orders]
            if first.grammar is None:
                made = self.engine.generate_from_drafts(
                    self.policy, first.role, prompts, drafts, first.sampling, generator
                )
            else:
                grammars = [order.grammar or "" for order in orders]
                made = self.engine.generate_within(
                    self.policy, first.role, prompts, drafts, grammars, first.sampling, generator
                )
            for order, (completion,) in zip(orders, made, strict=True):
                _settle(order, completion)
        except BaseException as error:  # goes to those waiting; the engine continues with the next
            if len(orders) > 1 and isinstance(error, Exception):  # sampling each alone shows which one fails
                for order in orders:
                    self._sample([order])
                return
            for order in orders:
                _settle(order, error)


def _settle(order: Order, result: Completion | BaseException) -> None:
    try:
        if isinstance(result, BaseException):
            order.result.set_exception(result)
        else:
            order.result.set_result(result)
    except InvalidStateError:  # it is no longer needed
        pass

"""Load balancing over servers that compute alike: requests go to the least busy one; unreachable ones are left out."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from cahl_pl.errors import ConfigError
from cahl_pl.http_client import Client, Refusal, TryAgain

T = TypeVar("T")

Prepare: TypeAlias = Callable[[Client, bool], None]
"""Function that prepares a server for requests; True: it was away or lost something, so its known state no longer counts."""

_LONGEST_PAUSE: Final = 60.0
_LONGEST_TRY: Final = 1e6
"""Seconds; a socket accepts little more."""
_GLANCE: Final = 0.5
"""Seconds after which a wait checks whether the answers are still needed."""
_UNKNOWN: Final = 404
_WHAT_NEXT: Final = (
    "correct data.engine.base_url, then give the same command with --ckpt_path last to go on from the newest checkpoint"
)


class Abandoned(Exception):
    """Signal that the answers are no longer needed."""


@dataclass(eq=False)
class _Server:
    """Server and its current state."""

    client: Client
    outstanding: int = 0  # requests that it has not answered yet
    failures: int = 0  # in a row, without an answered request between them
    problem: str = ""  # the last one
    away: bool = False
    stale: bool = False  # its known state no longer counts
    wake: float = 0.0  # when it is asked again, by time.monotonic
    episode: int = 0  # how often it has gone away: answers to earlier requests say nothing of its state now


class Servers:
    """Servers that give the same answer to the same request, so that it does not matter which of them is asked.

    Args:
        base_urls: their addresses, with or without `/v1` at the end.
        timeout_s: timeout of one attempt at a request, in seconds.
        retries: how often each server that does not answer is retried, after 1, 2, 4, ... seconds, at most 60, while no
            other one answers. As long as one does, the others are retried forever.
        api_key_env: environment variable with the key that they require; None for none.
        concurrency: maximum requests in flight at one server.

    Raises:
        ConfigError: there is no address, or a duplicate; a number is out of its range; see also `Client`.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        timeout_s: float = 600.0,
        retries: int = 8,
        api_key_env: str | None = None,
        concurrency: int = 64,
    ) -> None:
        if not 0 < timeout_s <= _LONGEST_TRY or retries < 0 or concurrency < 1:
            raise ConfigError(
                "data.engine needs timeout_s > 0 and at most a million, retries >= 0 and concurrency >= 1, "
                f"not {timeout_s}, {retries} and {concurrency}"
            )
        self.members = [_Server(Client(url, timeout_s, api_key_env)) for url in base_urls]
        urls = Counter(member.client.url for member in self.members)
        if not urls or max(urls.values()) > 1:
            raise ConfigError(f"data.engine.base_url is {list(base_urls)!r}: give one address or more, each once")
        self.retries = retries
        self.concurrency = concurrency
        self.lock = threading.Lock()

    @property
    def clients(self) -> list[Client]:
        """One client per server."""
        return [member.client for member in self.members]

    def ask(
        self,
        path: str,
        payloads: Sequence[Any],
        read: Callable[[Any], T],
        prepare: Prepare | None = None,
        abandoned: threading.Event | None = None,
    ) -> list[T]:
        """Send payloads, each to one of the servers, and read the answers. May be called by several threads at once.

        Args:
            path: path below the addresses.
            payloads: JSON values.
            read: converts an answer's JSON to a value; raises ConfigError for a wrong one, and `TryAgain`.
            prepare: called for each server before its first request, and again when it is back. If it raises for a server
                that was away, that one is left out, as long as there is another.
            abandoned: set by another thread when the answers are no longer needed.

        Returns:
            The values, in the order of the payloads.

        Raises:
            Refusal: a server refuses a request.
            ConfigError: none of them answers, after all retries; or one gives a wrong answer. Its earlier answers cannot
                be trusted either, so it is not just left out.
            Abandoned: see above.
        """
        return _Asking(self, path, payloads, read, prepare, abandoned).answer()

    def prepare_all(self, prepare: Prepare) -> None:
        """Prepare all servers; one that is away is reported and left out, if there is another.

        Raises:
            ConfigError: a server cannot be prepared; or none of them answers, after all retries.
        """
        asking = _Asking(self, "", [], lambda answer: None, prepare, None)
        asking.prepare_all()


class _Sent(NamedTuple):
    """Request sent to a server."""

    member: _Server
    request: int | None  # None: to be prepared
    episode: int
    preparation: int  # how many the server had had in this call


class _Asking(Generic[T]):
    """One call of `Servers.ask`."""

    def __init__(
        self,
        servers: Servers,
        path: str,
        payloads: Sequence[Any],
        read: Callable[[Any], T],
        prepare: Prepare | None,
        abandoned: threading.Event | None,
    ) -> None:
        self.servers, self.members = servers, servers.members
        self.path, self.payloads, self.read = path, payloads, read
        self.prepare = prepare or (lambda client, again: None)
        self.abandoned = abandoned
        self.answers: dict[int, T] = {}
        self.waiting = deque(range(len(payloads)))
        self.tries = [0] * len(payloads)
        self.running: dict[Future[Any], _Sent] = {}
        self.ready: set[_Server] = set()
        self.preparations: Counter[_Server] = Counter()
        self.renewed: set[_Server] = set()  # prepared once more, as they did not know the model

    def answer(self) -> list[T]:
        """See `Servers.ask`."""
        while len(self.answers) < len(self.payloads):
            if self.abandoned is not None and self.abandoned.is_set():
                raise Abandoned
            self._prepare_members()
            self._hand_out()
            self._wait()
        return [self.answers[i] for i in range(len(self.payloads))]

    def prepare_all(self) -> None:
        """See `Servers.prepare_all`."""
        while not self.ready or self.running:
            if not self.ready or not self.running:
                self._prepare_members()
            self._wait()

    def _usable(self, member: _Server) -> bool:
        return member in self.ready and not member.away

    def _prepare_members(self) -> None:
        """Prepare the servers that are new to this call, and those due to be asked again."""
        under_way = {sent.member for sent in self.running.values() if sent.request is None}
        for member in self.members:
            if not self._usable(member) and member not in under_way and time.monotonic() >= member.wake:
                self._send(member, None)

    def _hand_out(self) -> None:
        """Send waiting requests; a server being prepared keeps its share."""
        alive = [m for m in self.members if not m.away]
        most = self.servers.concurrency
        if not all(m in self.ready for m in alive):
            most = min(most, -(-(len(self.payloads) - len(self.answers)) // len(alive)))
        while self.waiting:
            free = [m for m in alive if m in self.ready and m.outstanding < most]  # ties go to the first
            if not free:
                return
            self._send(min(free, key=lambda member: member.outstanding), self.waiting.popleft())

    def _send(self, member: _Server, request: int | None) -> None:
        client, stale = member.client, member.stale

        def work() -> Any:
            if request is None:
                return self.prepare(client, stale)
            try:
                return client.ask(self.path, self.payloads[request], self.read)
            finally:
                with self.servers.lock:
                    member.outstanding -= 1

        if request is not None:
            with self.servers.lock:
                member.outstanding += 1
        self.running[_in_thread(work)] = _Sent(member, request, member.episode, self.preparations[member])

    def _wait(self) -> None:
        """Wait for an answer, or until a server is due to be asked again."""
        away = [m for m in self.members if not self._usable(m)]
        now = time.monotonic()
        if not self.running:
            if len(away) < len(self.members):  # they are busy with requests of other threads
                time.sleep(0.01)
                return
            first = min(away, key=lambda member: member.wake)
            time.sleep(max(0.0, first.wake - now))
            first.wake = 0.0
            return
        until = min((m.wake - now for m in away if m.wake > now), default=_GLANCE)
        for future in wait(self.running, min(until, _GLANCE), FIRST_COMPLETED).done:
            self._take(future, self.running.pop(future))

    def _take(self, future: Future[Any], sent: _Sent) -> None:
        member = sent.member
        try:
            result = future.result()
        except TryAgain as error:
            self._lose(sent, str(error))
        except Refusal as error:
            if sent.request is None:
                self._refused(sent, error)
            elif error.status != _UNKNOWN or not self._renew(sent):
                raise
        except ConfigError as error:
            if len(self.members) > 1 and member.client.url not in str(error):
                error = ConfigError(f"{member.client.url}: {error}")
            if sent.request is not None:
                raise error from None
            self._refused(sent, error)
        else:
            if sent.request is None:
                self.preparations[member] += 1
                self.ready.add(member)
                member.stale = member.stale and sent.episode != member.episode
            else:
                self.answers[sent.request] = result
            self._welcome(sent)

    def _welcome(self, sent: _Sent) -> None:
        """Record that a server has answered."""
        member = sent.member
        with self.servers.lock:
            if sent.episode != member.episode:
                return
            back, member.away, member.wake = member.away, False, 0.0
            if sent.request is not None:
                member.failures = 0
        if back:
            print(f"server {member.client.url}: back", flush=True)

    def _lose(self, sent: _Sent, problem: str) -> None:
        """Leave a server out for a while; its request goes to the next one available.

        Raises:
            ConfigError: no server answers, or none answers this request.
        """
        member, servers = sent.member, self.servers
        with servers.lock:
            known = sent.episode != member.episode  # from an earlier time: it has been left out since
            if not known:
                member.episode += 1
                member.failures += 1
                member.away = member.stale = True
                member.problem = problem
                pause = min(2.0 ** (member.failures - 1), _LONGEST_PAUSE)
                member.wake = time.monotonic() + pause
            alone = all(m.away for m in self.members)
            gone = all(m.failures > servers.retries for m in self.members)
        if not known:
            self.ready.discard(member)
        if sent.request is not None:
            self.waiting.appendleft(sent.request)
            self.tries[sent.request] += 1
            if self.tries[sent.request] > (servers.retries + 1) * len(self.members) - 1:
                gone = True
        if gone:
            said = "; ".join(
                f"the server {m.client.url} gave {m.problem}, {max(m.failures, 1)} times"
                for m in self.members
                if m.problem
            )
            it = "it" if len(self.members) == 1 else "one"
            raise ConfigError(f"{said}: start {it} again or {_WHAT_NEXT}")
        if known:
            return
        if alone:
            how = f"try {member.failures + 1} of {servers.retries + 1} in {pause:.0f} s"
        elif pause < _LONGEST_PAUSE or member.failures <= 7:  # after that it has been reported often enough
            left = sum(not m.away for m in self.members)
            how = f"left out, {left} of {len(self.members)} servers go on; asked again in {pause:.0f} s"
        else:
            return
        print(f"server {member.client.url}: {problem}; {how}", flush=True)

    def _refused(self, sent: _Sent, error: ConfigError) -> None:
        """Leave out a server that came back and cannot be prepared.

        Raises:
            ConfigError: it was not away, or there is no other server.
        """
        if not (sent.member.away and any(not m.away for m in self.members)):
            raise error
        self._lose(sent, str(error))

    def _renew(self, sent: _Sent) -> bool:
        """Prepare a server again that does not know the model, as after an unnoticed restart."""
        member = sent.member
        assert sent.request is not None
        if self._usable(member) and sent.preparation == self.preparations[member]:
            if member in self.renewed:
                return False
            self.renewed.add(member)
            self.ready.discard(member)
            member.stale = True
        self.waiting.appendleft(sent.request)
        return True


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run something in a thread that the program does not wait for when it exits."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future

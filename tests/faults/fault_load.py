"""A load that does not wait for anybody: so many requests a second, whatever becomes of them.

Every format, JSON and streamed; keys of the gateway, callers' own keys, and a model name that
stands for another target from one configuration to the next. A request that was refused because the
gateway is stopping, or whose connection was closed before the upstream heard of it, is asked again:
that is what clients do. Everything else but a right and whole answer is in `failures`.
"""

import asyncio
import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import fault_answers as answers
import orjson
from fault_client import Answer, Client
from fault_gateway import Gateway
from fault_upstream import Pause, Script, Seen, Step

RATE = 300
"""Requests a second."""

TURNING = "turning"
"""The name whose target the configuration changes."""

GIVE_UP_S = 20.0
REFUSED_PAUSE_S = 0.2
AT_ONCE_MAX = 4000
"""More than this under way says that this machine cannot keep up, and would only make it worse."""
THINK_S = 0.6
_CREDENTIAL = re.compile(
    rb"\r\n(?:authorization: bearer|x-api-key:|x-goog-api-key:) *([^\r]+)", re.IGNORECASE
)
_PROVIDERS = {
    "openai_chat": "openai",
    "openai_responses": "openai",
    "anthropic_messages": "anthropic",
    "gemini": "google",
}


@dataclass(frozen=True)
class Request:
    """What is asked, with whose key, and the credentials that may reach the upstream with it."""

    number: int
    kind: answers.Kind
    key: str
    model: str
    credentials: frozenset[bytes]


@dataclass
class Load:
    """One load on one gateway, in as many lives as it has. `run` until `stop`."""

    gateway: Gateway
    rng: random.Random
    turns: frozenset[str] = frozenset({"openai"})
    """The providers that `TURNING` may stand for."""
    requests: dict[int, Request] = field(default_factory=dict)
    heard: Counter[int] = field(default_factory=Counter)
    """How often the upstream got each request."""
    answered: dict[str, int] = field(default_factory=dict)
    """Receipt ids of the answers, with their numbers."""
    failures: list[str] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._idle: list[Client] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    @property
    def rate(self) -> float:
        """The requests a second that there really were."""
        return self.asked / self.seconds

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Ask until stopped, then wait for the answers that are still to come."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not self._stop.is_set():
            wait_s = begun + self.asked / RATE - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            assert len(self._asking) < AT_ONCE_MAX, f"only {len(self.answered)} of {self.asked}"
            self.asked += 1
            task = loop.create_task(self._ask(self._new()))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        self.seconds = loop.time() - begun
        await asyncio.gather(*self._asking)
        for client in self._idle:
            await client.leave()

    def _new(self) -> Request:
        number = next(self._numbers)
        kind = self.rng.choice(answers.KINDS)
        provider = _PROVIDERS[kind.format]
        key, model, may = self.gateway.key, "", {f"provider-key-{provider}"}
        if number % 3 == 0:
            key = f"own-key-{number % 7}"
            may = {key}
        elif kind.format == "openai_chat":
            model = TURNING
            may = {f"provider-key-{one}" for one in self.turns}
        credentials = frozenset(one.encode() for one in may)
        request = self.requests[number] = Request(number, kind, key, model, credentials)
        return request

    async def _ask(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GIVE_UP_S
        while loop.time() < deadline:
            pause_s = await self._try(request)
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
        self.failures.append(f"{request.number}: no answer in {GIVE_UP_S:g} s")

    async def _try(self, request: Request) -> float | None:
        """One try; how long to wait before the next one, or None where it is over."""
        client = self._take()
        if client is None:
            try:
                client = await Client.connect(self.gateway.port)
            except ConnectionError:
                self.retried["connect refused"] += 1
                return REFUSED_PAUSE_S
        body = answers.request_body(
            request.kind, request.number, ask_usage=request.number % 2 == 0, model=request.model
        )
        client.send(answers.request(self.gateway.base, request.key, request.kind, body))
        answer = await client.read()
        if not answer.whole:
            await client.leave(reset=True)
            if answer.status or self.heard[request.number]:
                self.failures.append(f"{request.number}: cut in the answer: {answer}")
                return None
            self.retried["closed unanswered"] += 1
            return 0.0
        if answer.status == 503 and self._stopping(answer):
            await client.leave()
            self.retried["shutting down"] += 1
            return float(answer.headers[b"retry-after"])
        if answer.headers.get(b"connection") == b"close":
            await client.leave()
        else:
            self._idle.append(client)
        self._judge(request, answer)
        return None

    def _take(self) -> Client | None:
        while self._idle:
            client = self._idle.pop()
            if not client.reader.at_eof():
                return client
            client.writer.close()
        return None

    @staticmethod
    def _stopping(answer: Answer) -> bool:
        # Gemini's envelope has the code among its details, in capitals.
        return b"shutting down" in answer.body and b"retry-after" in answer.headers

    def _judge(self, request: Request, answer: Answer) -> None:
        number, kind, text = request.number, request.kind, bytes(answer.body)
        wrong = ""
        if answer.status != 200:
            wrong = f"status {answer.status}"
        elif text.count(answers.tag(number).encode()) < 1 or _others(text, number):
            wrong = "another's answer"
        elif kind.ends_itself and answers.ENDING_MARKS[kind.format] not in text:
            wrong = "no end"
        elif kind.stream and answers.ERROR_MARKS[kind.format] in text:
            wrong = "an error in the stream"
        elif not kind.stream and not _is_document(text):
            wrong = "not JSON"
        elif answer.receipt_id in self.answered:
            wrong = "another's receipt"
        else:
            self.answered[answer.receipt_id] = number
        if wrong:
            self.failures.append(f"{number} ({kind.name}): {wrong}: {text[:300]!r}")

    def script(self, seen: Seen) -> Script:
        """The upstream's answer; half of them take their time."""
        self.heard[seen.number] += 1
        request = self.requests[seen.number]
        found = _CREDENTIAL.search(seen.head)
        if found is None or found[1] not in request.credentials:
            self.failures.append(f"{seen.number}: sent with {found and found[1]!r}")
        kind = request.kind
        reply = answers.reply(kind, seen.number)
        rng = random.Random(seen.number)
        think = rng.uniform(0.05, THINK_S) if rng.random() < 0.5 else 0.0
        if not kind.stream:
            return Script([Pause(think), answers.head(kind, length=len(reply.body)), reply.body])
        steps: list[Step] = [answers.head(kind)]
        for piece in answers.cut_anywhere(reply.body, 4, rng):
            steps += [Pause(think / 4), answers.chunk(piece)]
        return Script([*steps, answers.LAST_CHUNK])

    def check(self) -> None:
        """No request failed, and the store tells of each one what its client knows."""
        assert not self.failures, f"{len(self.failures)} failed: {self.failures[:5]}"
        assert len(self.answered) == self.asked
        assert set(self.heard.values()) <= {1}, "the upstream heard a request twice"
        books = self.gateway.books()
        assert books.openings == 0
        charges = dict(books.charges)
        assert len(charges) == len(books.charges)
        mine = {one.opening.id: one for one in books.entries if one.opening.id in self.answered}
        assert len(mine) == self.asked, "an answer has no receipt"
        for receipt_id, number in self.answered.items():
            entry = mine[receipt_id]
            assert entry.status == "succeeded"
            assert entry.usage is not None
            used = (entry.usage.input_tokens, entry.usage.output_tokens)
            assert used == answers.usage_of(number)
            own = self.requests[number].key != self.gateway.key
            assert charges.get(receipt_id) == (None if own else entry.cost_nano_usd)


def _others(text: bytes, number: int) -> bool:
    """Whether a tag of another request is in there."""
    found = set(re.findall(rb"tag-(\d{6})", text))
    return found != {b"%06d" % number}


def _is_document(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False

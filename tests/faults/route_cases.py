"""Routes of one to three targets that fail in every way, and an oracle that says what must follow.

A `Case` is one call by an alias of its own, whose targets are providers of their own: nothing that
befalls one call (a key that rests, a breaker) is known to another. What a target's upstream does
follows from the key that it is asked with: `ways[i]` for the i-th. Each answer carries a tag that
no other has, so that bytes of two answers can be told apart. `foretell` plays a case through, by
the rules of the README, without the code that they are kept by.
"""

import random
from dataclasses import dataclass, field
from typing import Literal

import fault_answers as answers
import orjson

Way = Literal[
    "answers", "goes_stale", "says_400",
    "says_401", "says_403", "says_429", "says_429_now",
    "says_408", "says_500", "says_503", "says_529",
    "refuses", "closes", "resets", "stalls", "garbles",
    "cuts_body", "stalls_in_body",
    "opens_with_error", "cuts_opening", "stalls_in_opening", "cuts_late",
]  # fmt: skip

REFUSES_KEY: dict[Way, int] = {
    "says_401": 401, "says_403": 403, "says_429": 429, "says_429_now": 429,
}  # fmt: skip
STATUSES: dict[Way, int] = {
    **REFUSES_KEY, "says_400": 400, "says_408": 408, "says_500": 500, "says_503": 503,
    "says_529": 529,
}  # fmt: skip
OF_ALL: tuple[Way, ...] = (
    *REFUSES_KEY, "says_408", "says_500", "says_503", "says_529",
    "refuses", "closes", "resets", "stalls", "garbles",
)  # fmt: skip
OF_BODIES: tuple[Way, ...] = ("cuts_body", "stalls_in_body")
OF_STREAMS: tuple[Way, ...] = ("opens_with_error", "cuts_opening", "stalls_in_opening")
ENDINGS: tuple[Way, ...] = ("answers", "answers", "answers", "goes_stale", "says_400")
ANSWERS: tuple[Way, ...] = ("answers", "goes_stale", "says_400", "cuts_late")
"""What no other target takes over from: the client has it, or it is the client's own fault."""

WAYS: frozenset[Way] = frozenset((*OF_ALL, *OF_BODIES, *OF_STREAMS, *ENDINGS, "cuts_late"))

OUTCOMES: dict[Way, tuple[str, int | None]] = {
    "refuses": ("upstream_connect", None),
    "closes": ("upstream_connect", None),
    "resets": ("upstream_connect", None),
    "stalls": ("upstream_timeout", None),
    "garbles": ("upstream_status", None),
    "cuts_body": ("upstream_stream", None),
    "stalls_in_body": ("upstream_timeout", None),
    "opens_with_error": ("upstream_stream", 200),
    "cuts_opening": ("upstream_stream", None),
    "stalls_in_opening": ("upstream_timeout", None),
    "cuts_late": ("upstream_stream", 200),
}
"""How an attempt that is given up is told on the receipt, where the status does not tell it."""

ALONE: dict[Way, tuple[int, str]] = {
    "refuses": (503, "upstream_error"),
    "closes": (503, "upstream_error"),
    "resets": (503, "upstream_error"),
    "stalls": (504, "upstream_timeout"),
    "garbles": (502, "bad_upstream_response"),
    "cuts_body": (502, "bad_upstream_response"),
    "stalls_in_body": (504, "upstream_timeout"),
    "says_401": (502, "bad_upstream_response"),
    "says_403": (502, "bad_upstream_response"),
    "cuts_opening": (502, "bad_upstream_response"),
    "stalls_in_opening": (504, "upstream_timeout"),
}
"""What the gateway answers where the only target fails, and no answer of its own can be told."""

MODELS: dict[str, tuple[str, ...]] = {
    "openai": ("gpt-4o", "gpt-4.1-mini", "gpt-4.1"),
    "anthropic": ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"),
    "google": ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.5-flash-lite"),
}
"""Of each catalog as many as a route has targets, all at different prices."""

_FAMILIES = {
    "openai_chat": ("openai", "openai"),
    "openai_responses": ("openai", "openai"),
    "anthropic_messages": ("anthropic", "anthropic"),
    "gemini": ("gemini", "google"),
}
_OPENING_EVENTS = {
    "openai_chat": 1, "openai_responses": 1, "anthropic_messages": 3, "gemini": 0,
}  # fmt: skip
"""Events of a stream that come before there is anything to read in it."""

TARGETS_MAX = KEYS_MAX = 3


@dataclass(frozen=True)
class Aim:
    """A target: its provider, its model, and what each of its keys is answered with."""

    provider: str
    catalog: str
    model: str
    ways: tuple[Way, ...]
    numbers: tuple[int, ...]
    """Of the answers, one for each key."""

    def key(self, index: int) -> str:
        return f"key-{index}-of-{self.provider}"


@dataclass(frozen=True)
class Told:
    """What must follow from a case.

    `by` is the target and key whose answer the client gets, with `way`; None: none of them, but
    the gateway's own `status` and `code`. `asked` are the keys that are used, in order.
    """

    asked: list[tuple[int, int]]
    attempts: list[tuple[str, str, str, int | None]]
    by: tuple[int, int] | None
    status: int
    code: str = ""


@dataclass(frozen=True)
class Case:
    number: int
    kind: answers.Kind
    aims: tuple[Aim, ...]
    cut: float
    """Where something is cut, as a share of where it can be."""

    asks_usage: bool = True
    """Whether the client wants the chunk of a chat stream that tells the usage."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    """What the upstreams saw, a key asked twice in a row (a stale connection) told once."""

    @property
    def alias(self) -> str:
        return f"route-{self.number}"

    @property
    def body(self) -> bytes:
        return answers.request_body(
            self.kind, self.number, ask_usage=self.asks_usage, model=self.alias
        )

    @property
    def path(self) -> str:
        path = answers.path(self.kind)
        return path.replace(f"/{answers.MODELS['gemini']}:", f"/{self.alias}:")

    def reply(self, target: int, key: int) -> answers.Reply:
        return answers.reply(self.kind, self.aims[target].numbers[key])

    def whole(self, target: int, key: int) -> bytes:
        """The body of an answer as its client gets it."""
        events = self.reply(target, key).events
        if self.kind.format == "openai_chat" and self.kind.stream and not self.asks_usage:
            events = (*events[:-2], events[-1])  # asked for on its way, and taken out again
        return b"".join(events)

    def opening(self, target: int, key: int) -> bytes:
        """What comes of a stream that breaks before there is anything to read in it."""
        reply = self.reply(target, key)
        whole = reply.events[: _OPENING_EVENTS[self.kind.format]]
        upto = len(b"".join(whole)) + len(reply.events[len(whole)]) // 2
        return reply.body[: int(upto * self.cut)]

    def late(self, target: int, key: int) -> bytes:
        """What comes of a stream that breaks behind its first content and before its end."""
        reply = self.reply(target, key)
        first = _OPENING_EVENTS[self.kind.format] + 2
        least = len(b"".join(reply.events[:first]))
        most = len(b"".join(reply.events[:-3]))
        return reply.body[: least + int((most - least) * self.cut)]

    def fault(self, target: int, key: int) -> bytes:
        """A stream that opens with an error: events that say nothing, then the error."""
        reply = self.reply(target, key)
        number = self.aims[target].numbers[key]
        count = round(self.cut * _OPENING_EVENTS[self.kind.format])
        return b"".join(reply.events[:count]) + fault_event(self.kind, number)

    def config(self, urls: list[str], dead: str) -> str:
        """The sections of the configuration that make this route; `dead` refuses connections."""
        lines = []
        for at, aim in enumerate(self.aims):
            origin = dead if aim.ways[0] == "refuses" else urls[at]
            keys = [aim.key(index) for index in range(len(aim.ways))]
            lines.append(
                f'[providers.{aim.provider}]\nformat = "{_FAMILIES[self.kind.format][0]}"\n'
                f'base_url = "{origin}/{aim.provider}"\ncatalog = "{aim.catalog}"\n'
                f"keys = {keys}\n"
            )
        targets = [f"{aim.provider}/{aim.model}" for aim in self.aims]
        return "".join(lines) + f"[models.{self.alias}]\ntargets = {targets}\n"


def fault_event(kind: answers.Kind, number: int) -> bytes:
    """An upstream's own error inside a stream, as each format has it."""
    message = f"{answers.tag(number)} overloaded"
    if kind.format == "openai_responses":
        failed = {"type": "error", "sequence_number": 9, "code": "server_error", "message": message}
        return b"event: error\ndata: " + orjson.dumps(failed) + b"\n\n"
    if kind.format == "anthropic_messages":
        event = {"type": "error", "error": {"type": "overloaded_error", "message": message}}
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"
    if kind.format == "gemini":
        data = orjson.dumps({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})
        return b"[" + data + b"\n]" if kind.array else b"data: " + data + b"\r\n\r\n"
    error = {"message": message, "type": "server_error", "param": None, "code": "overloaded"}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def error_body(number: int, status: int) -> bytes:
    """An upstream's own error answer."""
    message = f"{answers.tag(number)} said {status}"
    return orjson.dumps({"error": {"message": message, "type": "api_error", "code": "of_its_own"}})


# --- what must follow -------------------------------------------------------------------------


def foretell(case: Case) -> Told:
    """Play a case through: targets in order, each with its keys in turn."""
    asked: list[tuple[int, int]] = []
    attempts: list[tuple[str, str, str, int | None]] = []
    last = (0, 0)
    for target, aim in enumerate(case.aims):
        for key, way in enumerate(aim.ways):
            last = (target, key)
            if way != "refuses":
                asked.append(last)
            attempts.append((aim.provider, aim.model, *_outcome(case, last)))
            if way in ANSWERS:
                return Told(asked, attempts, last, STATUSES.get(way, 200))
            if way not in REFUSES_KEY:
                break
    if len(case.aims) > 1:
        return Told(asked, attempts, None, 503, "upstream_error")
    way = case.aims[0].ways[last[1]]
    if attempts[-1][3] == 200:
        return Told(asked, attempts, last, 200)
    if way in STATUSES and way not in ALONE:
        return Told(asked, attempts, last, STATUSES[way])
    return Told(asked, attempts, None, *ALONE[way])


def _outcome(case: Case, asked: tuple[int, int]) -> tuple[str, int | None]:
    """How the receipt tells of a try with a key."""
    way = case.aims[asked[0]].ways[asked[1]]
    if way in ("answers", "goes_stale"):
        return "succeeded", 200
    if way in STATUSES:
        return "upstream_status", STATUSES[way]
    outcome, status = OUTCOMES[way]
    if way in ("cuts_opening", "stalls_in_opening") and len(case.aims) == 1:
        # No other could take over: whole events went out, if there were any.
        begun = case.reply(*asked).whole_events(len(case.opening(*asked)))
        status = 200 if begun else None
    return outcome, status


# --- cases ------------------------------------------------------------------------------------


def make(number: int, rng: random.Random) -> Case:
    """A case; kinds of answers and first failures come in turn, all else at random."""
    kind = answers.KINDS[number % len(answers.KINDS)]
    ways = [*OF_ALL, *(("cuts_late", *OF_STREAMS) if kind.stream else OF_BODIES)]
    turn = number + number // len(answers.KINDS)
    count = rng.choice((1, 2, 2, 3, 3))
    catalog = _FAMILIES[kind.format][1]
    models = rng.sample(MODELS[catalog], count)
    aims = []
    for at in range(count):
        last = at == count - 1
        way = ways[turn % len(ways)] if at == 0 else rng.choice(ways)
        if last and rng.random() < 0.6:
            way = rng.choice(ENDINGS)
        keys: list[Way] = [rng.choice(tuple(REFUSES_KEY)) for _ in range(rng.randrange(KEYS_MAX))]
        if way == "refuses":
            keys = [way]
        elif keys and rng.random() < 0.5:
            keys[-1] = way
            keys.append("answers")  # one more, whose turn comes only after a refusal
        else:
            keys.append(way)
        first = ((number * TARGETS_MAX) + at) * KEYS_MAX + 1
        numbers = tuple(first + index for index in range(len(keys[:KEYS_MAX])))
        provider = f"p{number}-{at}"
        aims.append(Aim(provider, catalog, models[at], tuple(keys[:KEYS_MAX]), numbers))
    return Case(number, kind, tuple(aims), rng.random(), rng.random() < 0.5)

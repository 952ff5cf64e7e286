"""Every recorded request, answer and stream, translated to every other format.

Requests must be such as the target's SDK could have sent; answers and streams such as the caller's
SDK reads, with the text, the tool calls, the reason of the end and the usage that the provider
gave. Nothing of a request may vanish: each field changes what is sent, or is named as ignored.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from sdk_schemas import check_request, read_answer, read_stream
from translation_cases import (
    PAIRS,
    answers,
    asked,
    dialect,
    differences,
    requests,
    streams,
)
from wire_records import Record, cut, random_cuts

from gateway.errors import GatewayError
from gateway.wire.format import Toward
from gateway.wire.translate import Translation

pytestmark = pytest.mark.recorded

Wrong = tuple[str, Any, bytes]
"""A record, what is wrong with it, and the end of what was written."""

EVERY_BYTE_MAX = 6000
PAIR_IDS = [f"{one}->{other}" for one, other in PAIRS]


def translated_request(caller: str, upstream: str, document: Any) -> tuple[bytes, list[str]]:
    """The body for the upstream, and what was ignored; raises GatewayError."""
    model = stream = None
    if caller == "gemini":
        model, stream = "premium", False
    elif "model" not in document:
        document = {**document, "model": "premium"}  # other hosts have it in the URL
    request = dialect(caller).read_request(
        msgspec.json.encode(document), model=model, stream=stream
    )
    translation = Translation(dialect(caller), dialect(upstream), request)
    return translation.body(Toward("model-x", "openai", 8192)), translation.ignored


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_a_request_is_one_that_the_targets_sdk_could_send_or_is_refused_by_a_field_of_its_own(
    pair: tuple[str, str],
) -> None:
    caller, upstream = pair
    wrong: list[Wrong] = []
    sent = 0
    for record, document in requests(caller):
        try:
            body, _ = translated_request(caller, upstream, document)
        except GatewayError as error:
            named = names_a_field(document, error.param)
            if error.code != "unsupported_parameter" or not named:
                wrong.append((record.id, f"{error.code} {error.param}: {error.message}", b""))
            continue
        sent += 1
        try:
            check_request(upstream, body)
        except pydantic.ValidationError as error:
            wrong.append((record.id, str(error)[:600], body[:300]))
    assert not wrong, summary(wrong)
    assert sent > 100


def names_a_field(document: Any, param: str | None) -> bool:
    """Whether a dotted, indexed path is in a document, or begins with a field that is."""
    if not param:
        return False
    here = document
    for name in param.replace("[", ".").replace("]", "").split("."):
        if isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        elif isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list):
            found = [one[name] for one in here if isinstance(one, dict) and name in one]
            if not found:
                return False
            here = found[0]
        else:
            return False
    return True


# --- nothing vanishes -------------------------------------------------------------------------

VALUES = {
    "parameters", "schema", "input_schema", "arguments", "args", "response", "responseSchema",
    "responseJsonSchema", "parametersJsonSchema", "response_schema",
}  # fmt: skip
"""Fields whose insides are the user's own."""

TRIES = 3
"""How often a field is tried in each pair, in different requests."""


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_no_field_of_a_request_vanishes_in_silence(pair: tuple[str, str]) -> None:
    caller, upstream = pair
    tried: Counter[str] = Counter()
    vanished: dict[str, list[Any]] = {}
    for record, document in requests(caller):
        try:
            whole = translated_request(caller, upstream, document)
        except GatewayError:
            continue
        for path in fields_of(document):
            name = generalized(path)
            value = at(document, path)
            if tried[name] >= TRIES or value in (None, [], {}, ""):
                continue
            tried[name] += 1
            if name not in NO_MATTER[caller] and not matters(pair, document, path, whole):
                vanished.setdefault(name, [record.id, value, whole[1]])
    assert len(tried) > 30
    assert not vanished


Path = tuple[str | int, ...]


def fields_of(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all named fields of a document."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from fields_of(one, (*path, number))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield (*path, name)
            if name not in VALUES:
                yield from fields_of(one, (*path, name))


def generalized(path: Path) -> str:
    return ".".join(one if isinstance(one, str) else "[]" for one in path).replace(".[]", "[]")


def at(document: Any, path: Path) -> Any:
    for one in path:
        document = document[one]
    return document


def without(document: Any, path: Path, *value: Any) -> Any:
    """A copy without a field, or with another value in it."""
    first, *rest = path
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    if rest:
        copy[first] = without(document[first], tuple(rest), *value)
    elif value:
        copy[first] = value[0]
    else:
        del copy[first]
    return copy


def matters(
    pair: tuple[str, str], document: Any, path: Path, whole: tuple[bytes, list[str]]
) -> bool:
    """Whether a field changes what is sent or told, or what is refused, if it goes or is another.

    One that only goes may have said the default.
    """
    name = generalized(path)
    if any(is_told(name, one) for one in whole[1]):
        return True
    changed: list[Any] = [without(document, path)]
    match at(document, path):
        case bool() as value:
            changed.append(without(document, path, not value))
        case int() | float() as value:
            changed.append(without(document, path, value * 50 + 1))
        case str() as value:
            changed.append(without(document, path, value + "x"))
        case dict():
            changed.append(without(document, path, {}))
    return any(translates_otherwise(pair, one, whole) for one in changed)


def translates_otherwise(
    pair: tuple[str, str], document: Any, whole: tuple[bytes, list[str]]
) -> bool:
    try:
        return translated_request(*pair, document) != whole
    except GatewayError:
        return True


def is_told(name: str, ignored: str) -> bool:
    """Whether an ignored field, in a spelling with or without indexes, is this one or holds it.

    A field that is in use many times is told once.
    """
    told = re.sub(r"\[\d+\]|\.\d+\b", "", ignored)
    names = name.replace("[]", "").split(".")
    holders = [".".join(names[: end + 1]) for end in range(len(names))]
    return any(one == told or one.endswith(f".{told}") for one in holders)


NO_MATTER: dict[str, set[str]] = {
    "openai_chat": set(),
    "openai_responses": set(),
    "anthropic_messages": set(),
    "gemini": set(),
}
"""Fields that change nothing, and need not be told: see the reason at each."""


# --- answers and streams ----------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_a_whole_answer_is_read_by_the_callers_sdk_as_the_provider_gave_it(
    pair: tuple[str, str],
) -> None:
    caller, upstream = pair
    wrong: list[Wrong] = []
    read = 0
    for record in answers(upstream):
        wanted = asked(caller, stream=False)
        translation = Translation(dialect(caller), dialect(upstream), wanted.request)
        out = translation.answer(record.body, wanted)
        if record.id[:8] in NO_ANSWER:
            assert not isinstance(out, bytes), record.id
            continue
        if not isinstance(out, bytes):
            wrong.append((record.id, out, b""))
            continue
        wrong += held(caller, record, out, stream=False)
        read += 1
    assert not wrong, summary(wrong)
    assert read > 80


NO_ANSWER: dict[str, str] = {
    "856b44c2": "queued: an answer is still to come",
    "9f103643": "UNEXPECTED_TOOL_CALL: the model failed",
}
"""Of the recorded answers with status 200, those that are none."""


def held(caller: str, record: Record, out: bytes, *, stream: bool) -> list[Wrong]:
    """What is wrong with an answer that came out."""
    try:
        seen = (read_stream if stream else read_answer)(caller, out)
    except (pydantic.ValidationError, AssertionError) as error:
        return [(record.id, f"{type(error).__name__} {str(error)[:500]}", out[-300:])]
    if seen.model != "premium":
        return [(record.id, f"model {seen.model}", b"")]
    return [(record.id, one, b"") for one in differences(caller, record, seen)]


def summary(wrong: list[Wrong]) -> str:
    kinds = Counter(str(what)[:90] for _, what, _ in wrong)
    return f"{len(wrong)}: {kinds.most_common(25)} {wrong[:3]}"


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_a_stream_is_read_by_the_callers_sdk_as_the_provider_gave_it_however_it_was_cut(
    pair: tuple[str, str],
) -> None:
    caller, upstream = pair
    wrong: list[Wrong] = []
    read = 0
    for record in streams(upstream):
        body = record.body
        whole = stream_through(pair, [body])
        rng = random.Random(record.id)
        assert stream_through(pair, cut(body, random_cuts(body, record.id))) == whole, record.id
        if len(body) <= EVERY_BYTE_MAX or rng.random() < 0.02:
            assert stream_through(pair, cut(body, list(range(1, len(body))))) == whole, record.id
        if record.id[:8] in NO_STREAM:
            assert not whole[1], record.id
            continue
        if not whole[1]:
            wrong.append((record.id, "no terminal", whole[0][-300:]))
            continue
        wrong += held(caller, record, whole[0], stream=True)
        read += 1
    assert not wrong, summary(wrong)
    assert read > 40


NO_STREAM: dict[str, str] = {
    "658f07f4": "ends with an error of the provider's",
    "8cb65a91": "ends with an error of the provider's",
}


def stream_through(pair: tuple[str, str], pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """What a caller gets of a stream, and whether it has its terminal."""
    caller, upstream = pair
    wanted = asked(caller, stream=True)
    tap = Translation(dialect(caller), dialect(upstream), wanted.request).tap(wanted)
    out = b"".join(map(tap.feed, pieces)) + tap.end()
    return out + tap.release(), tap.terminal

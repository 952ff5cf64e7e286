"""Every recorded request, answer and stream, translated to every other format.

Requests must be such as the target's SDK could have sent; answers and streams such as the caller's
SDK reads, with the text, the tool calls, the reason of the end and the usage that the provider
gave. Nothing of a request may vanish: each field changes what is sent, or is named as ignored.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
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
from gateway.wire import registry
from gateway.wire.build_table import UNSPOKEN
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
    """Whether a document has the field that a dotted path names, with or without its indexes."""
    names = re.sub(r"\[(\d+)\]", r".\1", param or "").split(".")
    return has(document, names)


def has(here: Any, names: list[str]) -> bool:
    if not names:
        return True
    name, *rest = names
    if isinstance(here, dict):
        return name in here and has(here[name], rest)
    if isinstance(here, list) and name.isdigit():
        return int(name) < len(here) and has(here[int(name)], rest)
    return isinstance(here, list) and any(has(one, names) for one in here)


# --- nothing vanishes -------------------------------------------------------------------------

VALUES = {
    "parameters", "schema", "input_schema", "arguments", "args", "response", "responseSchema",
    "responseJsonSchema", "parametersJsonSchema", "response_schema",
}  # fmt: skip
"""Fields whose insides are the user's own."""

TRIES = 3
"""How often a field is tried in each pair, in different requests."""


@pytest.mark.parametrize("caller", registry.DIALECTS)
def test_no_field_of_a_request_vanishes_in_silence(caller: str) -> None:
    vanished: dict[str, list[Any]] = {}
    for pair in PAIRS:
        if pair[0] == caller:
            vanished |= vanished_between(pair)
    reasons = NO_MATTER.get(caller, {})
    found = [f"{name}: {seen}" for name, seen in vanished.items() if name not in reasons]
    assert not found, "\n".join(found)
    assert set(reasons) == set(vanished), "reasons that nothing needs"


def vanished_between(pair: tuple[str, str]) -> dict[str, list[Any]]:
    """The fields that changed nothing and were not told, each with where that was seen."""
    tried: Counter[str] = Counter()
    vanished: dict[str, list[Any]] = {}
    for record, document in requests(pair[0]):
        try:
            whole = translated_request(*pair, document)
        except GatewayError:
            continue
        for path in fields_of(document):
            name = generalized(path)
            value = at(document, path)
            if tried[name] >= TRIES or value in (None, [], {}, ""):
                continue
            tried[name] += 1
            if not matters(pair, document, path, whole):
                vanished.setdefault(name, [pair[1], record.id, value, whole[1]])
    assert len(tried) > 30
    return vanished


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


NO_MATTER: dict[str, dict[str, str]] = {
    "openai_chat": {
        "model": "the target has a name of its own for it",
        "stream": "Gemini's path says it",
        "stream_options": "asks of the answer, and its writer heeds it",
        "stream_options.include_usage": "asks of the answer, and its writer heeds it",
        "messages[].tool_calls[].type": "is what the field beside it says",
        "messages[].tool_calls[].index": "is its place in the list",
        "messages[].name": "of a tool message: its call says the name",
        "messages[].prefix": "is false, or says what the place at the end says",
        "messages[].reasoning": "`reasoning_details` says it again, and is told",
        "messages[].reasoning_details[].signature": "`reasoning` beside it is told",
        "messages[].content[].cache_control": "one spelling of several is told",
        "messages[].content[].prompt_cache_breakpoint": "one spelling of several is told",
        "messages[].content[].prompt_cache_breakpoint.mode": "one spelling of several is told",
        "messages[].content[].cache_control.ttl": "is the default",
        "messages[].content[].cache_control.type": "has one value",
        "messages[].cache_control.type": "has one value",
        "tool_choice.type": "is what the field beside it says",
        "response_format.json_schema.name": "a label for the provider's own use",
        "response_format.json_schema.description": "the schema has a description of its own",
        "messages[].content[].file.filename": "stands beside a URL, which names the file",
        "response_format.json_schema.strict": "is so in formats that have a schema and no word",
        "reasoning": "asks only for thoughts that are the target's default",
        "include_reasoning": "asks for thoughts to be shown, which they are where there are any",
        "reasoning.exclude": "Responses show none unless asked",
    },
    "openai_responses": {
        "model": "the target has a name of its own for it",
        "stream": "Gemini's path says it",
        "include": "asks for encrypted thoughts, which are given wherever there are any",
        "input[].status": "says of history that it is history",
        "reasoning.summary": "asks for thoughts to be shown, which they are where there are any",
        "text.format.name": "a label for the provider's own use",
        "text.format.strict": "is so in formats that have a schema and no word",
        "tool_choice.tools[].type": "is what the field beside it says",
        "tools[].format": "says that plain text is plain",
        "tools[].format.type": "is what the fields beside it say",
        "input[].content[].prompt_cache_breakpoint.mode": "has one value",
    },
    "anthropic_messages": {
        "model": "the target has a name of its own for it",
        "stream": "Gemini's path says it",
        "thinking.display": "asks for thoughts to be shown, which they are where there are any",
        "messages[].content[].content[].source.media_type": "of plain text there is one",
    },
    "gemini": {
        "contents[].parts[].functionResponse.id": "its call has none: the order pairs them",
        "contents[].parts[].function_response.id": "its call has none: the order pairs them",
        "contents[].parts[].thought": "is false",
        "contents[].parts[].fileData.mime_type": "that it is an image is all that is asked",
        "systemInstruction.role": "is ignored by Gemini, too",
        "generationConfig": "says only that an answer is text",
        "generationConfig.responseModalities": "says that an answer is text, which it is",
        "generationConfig.mediaResolution": "of images, and there are none",
        "generationConfig.thinkingConfig.includeThoughts": (
            "asks for thoughts to be shown, which they are where there are any"
        ),
    },
}  # fmt: skip
"""Fields of recorded requests that change nothing and are not told, each with the reason."""


# --- answers and streams ----------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_a_whole_answer_is_read_by_the_callers_sdk_as_the_provider_gave_it(
    pair: tuple[str, str],
) -> None:
    caller, upstream = pair
    wrong: list[Wrong] = []
    read = 0
    for record in filter(partial(is_possible, caller), answers(upstream)):
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


def is_possible(caller: str, record: Record) -> bool:
    """Whether somebody who speaks this format can have asked for that.

    Nobody asks for two answers where that is refused, or gives tools that take plain text where
    there are none.
    """
    content = record.expected_content
    assert content is not None
    if len(content["choices"]) > 1 and dialect(caller).support["choices"] != "yes":
        return False
    custom = "custom_tool_call" in (content.get("items") or ())
    return not custom or "custom_tools" not in UNSPOKEN[caller]


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
    found = differences(caller, record, seen, stream=stream)
    return [(record.id, one, b"") for one in found]


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
    for record in filter(partial(is_possible, caller), streams(upstream)):
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
        if caller == "openai_chat" and b'"type":"custom"' in whole[0]:
            continue  # the API streams such calls, but the SDK has no type for them
        wrong += held(caller, record, whole[0], stream=True)
        read += 1
    assert not wrong, summary(wrong)
    assert read > 40


NO_STREAM: dict[str, str] = {
    "658f07f4": "ends with an error of the provider's",
    "8cb65a91": "ends with an error of the provider's",
    "9f103643": "UNEXPECTED_TOOL_CALL: the model failed",
    "b01c1c21": "UNEXPECTED_TOOL_CALL: the model failed",
}


def stream_through(pair: tuple[str, str], pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """What a caller gets of a stream, and whether it has its terminal."""
    caller, upstream = pair
    wanted = asked(caller, stream=True)
    tap = Translation(dialect(caller), dialect(upstream), wanted.request).tap(wanted)
    out = b"".join(map(tap.feed, pieces)) + tap.end()
    return out + tap.release(), tap.terminal

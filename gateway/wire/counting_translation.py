"""Counting a request's tokens by another format's counter: Anthropic's `messages/count_tokens`,
Gemini's `countTokens` and OpenAI's `responses/input_tokens`.

What is counted is a `Request` like any other, less what only says how to answer it. OpenAI's chat
has no counter of its own: a provider of that family counts what is written as for Responses. Pure.
Sources: docs.anthropic.com "Count Message tokens", ai.google.dev "models.countTokens",
platform.openai.com "Get input token counts" (November 2026), and recorded traffic. Used by the
proxy.
"""

from collections.abc import Callable

import msgspec
from msgspec import Raw

from gateway.wire import (
    anthropic_messages_bodies,
    gemini_counting,
    lenient,
    openai_responses_bodies,
    registry,
)
from gateway.wire.conversation import Feature, Request
from gateway.wire.format import Toward
from gateway.wire.translate import losses

Written = tuple[bytes, list[str]]
"""A body, and the caller's fields that were left out of it."""

_ANSWERED: frozenset[Feature] = frozenset((
    "stop", "temperature", "temperature_above_1", "top_p", "top_k", "seed", "choices", "logprobs",
    "logit_bias", "frequency_penalty", "presence_penalty", "max_output_tokens", "audio_output",
    "image_output", "verbosity", "prediction", "user", "metadata", "service_tier",
    "safety_settings", "store", "background", "truncation", "include", "moderation",
))  # fmt: skip
"""What says how to answer, who asks, or what becomes of the answer: none of it is counted."""

_RESPONSES_FIELDS = frozenset((
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning",
    "text",
))  # fmt: skip


class Counter(msgspec.Struct, frozen=True):
    """One format's way to count.

    `read_request` takes a body, and the model where the path says it; it raises `GatewayError` as
    `format.Dialect.read_request` does, `write_request` as that of a dialect. `read_answer` gives
    None where an answer tells no count.
    """

    read_request: Callable[[bytes, str | None], Request]
    write_request: Callable[[Request, Toward], Written]
    read_answer: Callable[[bytes], int | None]
    write_answer: Callable[[int], bytes]


def written(request: Request, name: str, toward: Toward) -> Written:
    """What the counter of the format `name` is sent for a request.

    Raises `GatewayError` `unsupported_parameter` where that format cannot say what is in it.
    """
    counted = prompt_of(request)
    left_out = losses(counted, registry.DIALECTS[name])
    body, more = COUNTERS[name].write_request(counted, toward)
    return body, list(dict.fromkeys([*left_out, *more]))


def prompt_of(request: Request) -> Request:
    """A request less everything that is not counted."""
    return Request(
        format=request.format,
        model=request.model,
        stream=False,
        system=request.system,
        messages=request.messages,
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        output=request.output,
        reasoning=request.reasoning,
        spelled={
            feature: field for feature, field in request.spelled.items() if feature not in _ANSWERED
        },
        unknown=request.unknown,
    )


class _Counted(msgspec.Struct, gc=False):
    input_tokens: lenient.Count | None = None


_COUNTED = msgspec.json.Decoder(_Counted)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


def _told(body: bytes) -> int | None:
    """The count in an answer of Anthropic's, or of OpenAI's."""
    found = lenient.decode(_COUNTED, body)
    return None if found is None else found.input_tokens


def _read_messages(body: bytes, model: str | None) -> Request:
    return registry.DIALECTS["anthropic_messages"].read_request(body, model=model, stream=False)


def _write_messages_answer(tokens: int) -> bytes:
    return b'{"input_tokens":%d}' % tokens


def _read_gemini(body: bytes, model: str | None) -> Request:
    return gemini_counting.read_count_request(body, model=model)


def _read_responses(body: bytes, model: str | None) -> Request:
    return registry.DIALECTS["openai_responses"].read_request(body, model=model, stream=False)


def _write_responses(request: Request, toward: Toward) -> Written:
    body, ignored = openai_responses_bodies.write_request(request, toward)
    fields = _FIELDS.decode(body)
    kept = {name: raw for name, raw in fields.items() if name in _RESPONSES_FIELDS}
    return msgspec.json.encode(kept), ignored


def _write_responses_answer(tokens: int) -> bytes:
    return b'{"object":"response.input_tokens","input_tokens":%d}' % tokens


COUNTERS: dict[str, Counter] = {
    "openai_responses": Counter(_read_responses, _write_responses, _told, _write_responses_answer),
    "anthropic_messages": Counter(
        _read_messages, anthropic_messages_bodies.write_count, _told, _write_messages_answer
    ),
    "gemini": Counter(
        _read_gemini,
        gemini_counting.write_count_request,
        gemini_counting.read_count_answer,
        gemini_counting.write_count_answer,
    ),
}
"""By the format whose requests are counted."""

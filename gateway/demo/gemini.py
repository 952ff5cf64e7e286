"""Gemini: `models/{model}:generateContent`, `:streamGenerateContent`, `:countTokens` and embedding.

Grammar of the API reference, August 2026: whole parts, usage in every chunk, the finish reason in
the last; with `alt=sse` events end in CR LF, without it the chunks are the elements of one JSON
array. Thoughts are counted beside the candidates. `STOP` is also the finish of a function call, as
the real API has it. Called by `server.py`.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from gateway.demo import tokens
from gateway.demo.answer import Answer, compose
from gateway.demo.embeddings import DIMENSIONS_MAX, vector
from gateway.demo.gemini_input import Reading, read
from gateway.demo.gemini_names import invalid
from gateway.demo.gemini_parts import Body, camel, content_text
from gateway.demo.reply import Refusal, Reply, error_object, json_reply, new_id
from gateway.demo.seals import seal
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

CHUNK_TOKENS = 4
"""Gemini sends several tokens to a chunk."""

DEFAULT_DIMENSIONS = 768

_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "stop_sequence": "STOP"}


class Generation(msgspec.Struct):
    """Everything the writers need of one answer."""

    model: str
    reading: Reading
    answers: list[Answer]
    cached: int
    usage: bool
    response_id: str


def generate(state: DemoState, model: str, body: Body, switches: Switches) -> Reply:
    """Answer `:generateContent`."""
    generation = _generate(state, model, body, switches)
    candidates = [
        _candidate(index, _parts(generation, answer), answer)
        for index, answer in enumerate(generation.answers)
    ]
    visible = sum(answer.visible_tokens for answer in generation.answers)
    thoughts = sum(len(answer.thinking) for answer in generation.answers)
    return json_reply("gemini", _response(generation, candidates, visible, thoughts))


def stream(state: DemoState, model: str, body: Body, switches: Switches, *, sse: bool) -> Reply:
    """Answer `:streamGenerateContent`, as events or as one JSON array."""
    generation = _generate(state, model, body, switches)
    chunks: list[dict[str, Any]] = []
    for index, answer in enumerate(generation.answers):
        chunks += _chunks(generation, index, answer)
    error = error_object("gemini", Refusal(503, "The demo model is overloaded."), None)
    if sse:
        return Reply(
            content_type="text/event-stream",
            headers={"content-disposition": "attachment"},
            events=[_event(chunk) for chunk in chunks],
            fault=lambda after: [_event(error)],
        )
    elements = [_element(chunk, index) for index, chunk in enumerate(chunks)]
    return Reply(
        content_type="application/json; charset=UTF-8",
        events=[*elements, b"]\n"],
        fault=lambda after: [_element(error, after), b"]\n"],
    )


def count_tokens(state: DemoState, model: str, body: Body, switches: Switches) -> Reply:
    """Answer `:countTokens`: what generating would report as its prompt."""
    whole = camel(body).get("generateContentRequest")
    reading = read(whole if isinstance(whole, dict) else body, model, switches)
    document = {
        "totalTokens": len(reading.ask.prompt),
        "promptTokensDetails": _modalities(reading),
    }
    return json_reply("gemini", document)


def embed(state: DemoState, model: str, body: Body, switches: Switches) -> Reply:
    """Answer `:embedContent`."""
    values, weight = _embedding(camel(body), "")
    document: dict[str, Any] = {"embedding": {"values": values}}
    return json_reply("gemini", document | _embedding_usage(weight, switches))


def embed_batch(state: DemoState, model: str, body: Body, switches: Switches) -> Reply:
    """Answer `:batchEmbedContents`."""
    requests = body.get("requests")
    if not isinstance(requests, list) or not requests:
        raise invalid("* BatchEmbedContentsRequest.requests: requests is not specified\n")
    embeddings = []
    total = 0
    for index, request in enumerate(requests):
        path = f"requests[{index}]."
        values, weight = _embedding(camel(request) if isinstance(request, dict) else {}, path)
        embeddings.append({"values": values})
        total += weight
    document: dict[str, Any] = {"embeddings": embeddings}
    return json_reply("gemini", document | _embedding_usage(total, switches))


Verb = Callable[[DemoState, str, Body, Switches], Reply]

VERBS: dict[str, Verb] = {
    "generateContent": generate,
    "countTokens": count_tokens,
    "embedContent": embed,
    "batchEmbedContents": embed_batch,
}


def _embedding(request: Body, path: str) -> tuple[list[float], int]:
    """The vector of one request, and its tokens."""
    if request.get("content") is None:
        raise invalid(f"* EmbedContentRequest.{path}content: content is not specified\n")
    wanted = request.get("outputDimensionality")
    if wanted is None:
        wanted = DEFAULT_DIMENSIONS
    if not isinstance(wanted, int) or not 1 <= wanted <= DIMENSIONS_MAX:
        raise invalid(f"* EmbedContentRequest.{path}output_dimensionality: out of range\n")
    text = content_text(request["content"])
    return vector(text, wanted), tokens.count(text)


def _embedding_usage(weight: int, switches: Switches) -> dict[str, Any]:
    if switches.nousage:
        return {}
    details = [{"modality": "TEXT", "tokenCount": weight}]
    return {"usageMetadata": {"promptTokenCount": weight, "promptTokenDetails": details}}


def _generate(state: DemoState, model: str, body: Body, switches: Switches) -> Generation:
    reading = read(body, model, switches)
    answers = [
        compose(msgspec.structs.replace(reading.ask, variant=index))
        for index in range(reading.candidates)
    ]
    cached = state.prompts.implicit(model, reading.ask.prompt)
    return Generation(model, reading, answers, cached, not switches.nousage, new_id("", 23))


def _parts(generation: Generation, answer: Answer) -> list[dict[str, Any]]:
    """The parts of a whole answer; empty where it was cut while it still thought."""
    parts: list[dict[str, Any]] = []
    if answer.thinking and generation.reading.show_thoughts:
        parts.append({"text": answer.thinking_text, "thought": True})
    if answer.text:
        text: dict[str, Any] = {"text": answer.plain_text}
        if answer.thinking:
            text["thoughtSignature"] = seal(answer.thinking_text)
        parts.append(text)
    return parts + _call_parts(answer)


def _call_parts(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for index, call in enumerate(answer.calls):
        if not call.complete:
            # Arguments that were cut are no object; Gemini never sends a part of a call.
            continue
        arguments = orjson.loads(call.arguments)
        # Drawn from the answer, so that the same answer names its calls alike.
        seed = f"{index}:{call.name}:{call.arguments}".encode("utf-8", "surrogatepass")
        call_id = hashlib.blake2b(seed, digest_size=4).hexdigest()
        part: dict[str, Any] = {
            "functionCall": {"name": call.name, "args": arguments, "id": call_id}
        }
        if answer.thinking and not parts:
            # Of parallel calls only the first is signed.
            part["thoughtSignature"] = seal(answer.thinking_text)
        parts.append(part)
    return parts


def _candidate(index: int, parts: list[dict[str, Any]], finished: Answer | None) -> dict[str, Any]:
    content: dict[str, Any] = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    candidate: dict[str, Any] = {"content": content}
    if finished is not None:
        candidate["finishReason"] = _FINISH[finished.finish]
    candidate["index"] = index
    return candidate


def _response(
    generation: Generation, candidates: list[dict[str, Any]], visible: int, thoughts: int
) -> dict[str, Any]:
    response: dict[str, Any] = {"candidates": candidates}
    if generation.usage:
        response["usageMetadata"] = _usage(generation, visible, thoughts)
    response["modelVersion"] = generation.model
    response["responseId"] = generation.response_id
    return response


def _usage(generation: Generation, visible: int, thoughts: int) -> dict[str, Any]:
    prompt = len(generation.reading.ask.prompt)
    usage: dict[str, Any] = {"promptTokenCount": prompt}
    if visible:
        usage["candidatesTokenCount"] = visible
    usage["totalTokenCount"] = prompt + visible + thoughts
    if generation.cached:
        usage["cachedContentTokenCount"] = generation.cached
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": generation.cached}]
    usage["promptTokensDetails"] = _modalities(generation.reading)
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return usage


def _modalities(reading: Reading) -> list[dict[str, Any]]:
    details = [{"modality": "TEXT", "tokenCount": reading.text_tokens}]
    if reading.media_tokens:
        details.append({"modality": "IMAGE", "tokenCount": reading.media_tokens})
    return details


def _chunks(generation: Generation, index: int, answer: Answer) -> list[dict[str, Any]]:
    """One candidate's chunks: thoughts, text by a few tokens, calls whole; the last one finishes.

    Each chunk's usage says what had been generated by then, of this candidate and those before.
    """
    steps: list[tuple[list[dict[str, Any]], int]] = []
    if answer.thinking and generation.reading.show_thoughts:
        steps.append(([{"text": answer.thinking_text, "thought": True}], 0))
    for start in range(0, len(answer.text), CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, len(answer.text))
        steps.append(([{"text": "".join(answer.text[start:end])}], end))
    calls = _call_parts(answer)
    if calls:
        steps.append((calls, answer.visible_tokens))
    if answer.thinking and answer.text:
        # The signature comes last, on an empty text part.
        sealed = seal(answer.thinking_text)
        steps.append(([{"text": "", "thoughtSignature": sealed}], answer.visible_tokens))
    earlier = generation.answers[:index]
    visible_before = sum(one.visible_tokens for one in earlier)
    thoughts = len(answer.thinking) + sum(len(one.thinking) for one in earlier)
    chunks = []
    for number, (parts, visible) in enumerate(steps or [([], 0)], 1):
        last = number >= len(steps)
        spent = visible_before + (answer.visible_tokens if last else visible)
        candidate = _candidate(index, parts, answer if last else None)
        chunks.append(_response(generation, [candidate], spent, thoughts))
    return chunks


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\r\n\r\n" % orjson.dumps(chunk)


def _element(chunk: dict[str, Any], index: int) -> bytes:
    text = orjson.dumps(chunk, option=orjson.OPT_INDENT_2)
    return (b"[" if index == 0 else b",\n") + text + b"\n"

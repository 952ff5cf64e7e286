"""OpenAI Responses, for translation: whole answers and errors, read and written.

An answer is a list of items: reasoning, a message of parts, calls; items of tools that the provider
ran become `Opaque` (a generated image an `Image`). `status` says how it ended: `incomplete` has a
reason, `failed`, `cancelled` and `queued` are no answers. Written answers repeat what was asked,
as the API does; text blocks that follow each other become one part, their citations its
annotations. Source: platform.openai.com API reference, "The response object" (November 2026), and
the types of openai 2.54. Used by `openai_responses_dialect.py` and `openai_responses_streams.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import msgspec
from msgspec import Raw

from gateway.wire import call_ids, lenient, signatures
from gateway.wire.conversation import (
    Answer,
    AnswerError,
    Audio,
    Block,
    Choice,
    Citation,
    Document,
    Image,
    Opaque,
    Refusal,
    Signature,
    StopReason,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from gateway.wire.format import Asked
from gateway.wire.lenient import ABSENT
from gateway.wire.neutral import Usage
from gateway.wire.openai_chat import read_usage
from gateway.wire.openai_responses_bodies import function_name, text_format, tool_choice, tools
from gateway.wire.openai_responses_items import NAME, signature_of, signed_item

ERROR_TEXT_CHARS_MAX = 2000

# What `error.code` of a failed response may be; any other error is a server_error.
_ERROR_CODES = frozenset(
    ("server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded")
)

Json = dict[str, Any]


class Response(msgspec.Struct, frozen=True, gc=False):
    """The members of a response that are read."""

    id: Raw = ABSENT
    model: Raw = ABSENT
    object: Raw = ABSENT
    created_at: Raw = ABSENT
    status: Raw = ABSENT
    error: Raw = ABSENT
    incomplete_details: Raw = ABSENT
    output: Raw = ABSENT
    usage: Raw = ABSENT


_RESPONSE = msgspec.json.Decoder(Response)


def read_response(raw: bytes | Raw) -> Response | None:
    """Decode a response object; None where it is no JSON object."""
    return lenient.decode(_RESPONSE, raw) if raw else None


# -- reading -----------------------------------------------------------------------------------


def read_answer(body: bytes) -> Answer | None:
    """See `format.Dialect.read_answer`."""
    found = read_response(body)
    if found is None:
        return None
    error = error_of(found)
    output = items_of(found.output)
    if error is None and (output is None or not found.status):
        return None
    content = tuple(block for item in output or () for block in blocks_of(item))
    return Answer(
        id=lenient.text(found.id),
        model=lenient.text(found.model),
        choices=() if error is not None else (Choice(content, stop_of(found, content)),),
        usage=read_usage(found.usage),
        created_s=created_of(found),
        error=error,
    )


def created_of(found: Response) -> int | None:
    """When a response was made, in seconds since 1970."""
    value = lenient.anything(found.created_at)
    return (
        int(value) if isinstance(value, (int, float)) and abs(value) < lenient.COUNT_MAX else None
    )


def error_of(found: Response) -> AnswerError | None:
    """Why a response is none: it failed, was cancelled, or only waits for its turn."""
    status = lenient.text(found.status)
    fault = lenient.anything(found.error)
    if fault or status == "failed":
        return error_from(fault, "The response failed.")
    if status in ("queued", "in_progress", "cancelled"):
        return AnswerError(f"The response is {status.replace('_', ' ')}.", status)
    return None


def items_of(raw: Raw) -> list[Json] | None:
    """The items of an output; None where it is no list."""
    value = lenient.anything(raw)
    if not isinstance(value, list):
        return None
    return [item for item in value if isinstance(item, dict)]


def stop_of(found: Response, content: Iterable[Block]) -> StopReason:
    """Why an answer ended: its status, and for a complete one its content."""
    if lenient.text(found.status) == "incomplete":
        details = lenient.anything(found.incomplete_details)
        reason = details.get("reason") if isinstance(details, dict) else None
        return "refusal" if reason == "content_filter" else "max_tokens"
    return "tool_call" if any(isinstance(block, ToolCall) for block in content) else "end"


def blocks_of(item: Json) -> list[Block]:
    """What an item of an output says."""
    match item.get("type"):
        case "message":
            return [block for part in dicts(item.get("content")) for block in _part_blocks(part)]
        case "reasoning":
            thinking = thinking_of(item)
            return [] if thinking is None else [thinking]
        case "function_call":
            return [ToolCall(string(item, "call_id"), string(item, "name"), arguments_of(item))]
        case "custom_tool_call":
            call_id, name = string(item, "call_id"), string(item, "name")
            return [ToolCall(call_id, name, string(item, "input"), custom=True)]
        case "image_generation_call" if string(item, "result"):
            kind = string(item, "output_format") or "png"
            return [Image(f"image/{kind}", string(item, "result"))]
        case kind:
            return [Opaque(NAME, msgspec.json.encode(item), str(kind or ""))]


def _part_blocks(part: Json) -> list[Block]:
    if part.get("type") == "refusal":
        return [Refusal(string(part, "refusal"))]
    if part.get("type") in ("output_text", "text"):
        return [Text(string(part, "text")), *citations_of(part.get("annotations"))]
    return [Opaque(NAME, msgspec.json.encode(part), str(part.get("type") or ""))]


def arguments_of(item: Json) -> str:
    """A call's arguments, as text; some servers give them as the object itself."""
    value = item.get("arguments")
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def thinking_of(item: Json) -> Thinking | None:
    """A reasoning item: its summary, else its text; None where it says nothing at all."""
    encrypted = string(item, "encrypted_content")
    parts = dicts(item.get("summary")) or dicts(item.get("content"))
    text = "\n\n".join(filter(None, (string(part, "text") for part in parts)))
    if not text and not encrypted:
        return None
    signature = signature_of(string(item, "id"), encrypted) if encrypted else None
    return Thinking(text, signature)


def citations_of(annotations: object) -> list[Citation]:
    """The annotations of a text that name a source on the web, or a file."""
    found = []
    for one in dicts(annotations):
        start, end = one.get("start_index"), one.get("end_index")
        found.append(
            Citation(
                string(one, "url") or None,
                string(one, "title") or string(one, "filename") or None,
                None,
                start if isinstance(start, int) else None,
                end if isinstance(end, int) else None,
            )
        )
    return found


def dicts(value: object) -> list[Json]:
    """The objects of a list; none of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def string(item: Json, name: str) -> str:
    """A member that is a string; "" for any other."""
    value = item.get(name)
    return value if isinstance(value, str) else ""


def read_error(status: int, body: bytes) -> AnswerError:
    """See `format.Dialect.read_error`."""
    value = lenient.anything(body)
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        fault = value.get("error") or value
        return error_from(fault, f"The provider answered {status}.")
    text = value if isinstance(value, str) else body.decode("utf-8", "replace").strip()
    if not text or text.startswith(("<", "{", "[")):
        text = f"The provider answered {status}."
    return AnswerError(text[:ERROR_TEXT_CHARS_MAX])


def error_from(fault: object, usual: str) -> AnswerError:
    """An error's value, of any shape: an object, a text, anything else."""
    if not isinstance(fault, dict):
        return AnswerError(
            (fault if isinstance(fault, str) else "")[:ERROR_TEXT_CHARS_MAX] or usual
        )
    message = next((fault[k] for k in ("message", "detail", "error") if _is_text(fault.get(k))), "")
    code = fault.get("code")
    return AnswerError(
        (message or usual)[:ERROR_TEXT_CHARS_MAX],
        string(fault, "type") or None,
        str(code) if isinstance(code, (str, int)) and code else None,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


# -- writing -----------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> bytes:
    """See `format.Dialect.write_answer`."""
    choice = answer.choices[0]
    status = status_of(choice.stop, choice.content)
    output = Output(asked, status)
    for block in choice.content:
        output.add(block)
    envelope = Envelope(asked)
    return envelope.finished(choice.stop, status, output.done(), answer.usage)


def status_of(stop: StopReason, content: Sequence[Block]) -> str:
    """`completed` or `incomplete`. A refusal in the model's own words is a complete answer."""
    match stop:
        case "max_tokens" | "pause":
            return "incomplete"
        case "refusal":
            spoken = any(isinstance(block, Refusal) for block in content)
            return "completed" if spoken else "incomplete"
        case "end" | "tool_call" | "stop_sequence":
            return "completed"
        case _:
            assert_never(stop)


def usage_json(usage: Usage) -> Json:
    """Usage in this format's convention; its clients' types require every one of these."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens or 0,
            "cache_write_tokens": usage.cache_creation_input_tokens or 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }


def item_id(kind: str, asked: Asked, number: int) -> str:
    """An item's id: `msg_…`, `rs_…`, `fc_…`, `ctc_…`, `ig_…`."""
    return f"{kind}_{asked.id.replace('-', '')}{number:04d}"


class Envelope:
    """The response object around an output; what it repeats of the request is made once."""

    def __init__(self, asked: Asked) -> None:
        request = asked.request
        reasoning, output, choice = request.reasoning, request.output, request.tool_choice
        self._head: Json = {
            "id": "resp_" + asked.id.replace("-", ""),
            "object": "response",
            "created_at": asked.created_s,
            "background": False,
            "instructions": None,
            "max_output_tokens": request.max_output_tokens,
            "metadata": dict(request.metadata),
            "model": asked.model,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {
                "effort": reasoning.effort if reasoning is not None else None,
                "summary": "auto" if reasoning is not None and reasoning.show else None,
            },
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"} if output is None else text_format(output)},
            "tool_choice": "auto" if choice is None else tool_choice(choice, request.tools),
            "tools": Raw(msgspec.json.encode(tools(request))),
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "user": request.user,
        }

    def begun(self) -> bytes:
        """The response as it begins."""
        return self._written("in_progress", [], None, None, None)

    def finished(
        self, stop: StopReason, status: str, output: list[Json | Raw], usage: Usage | None
    ) -> bytes:
        """The response as it ends."""
        reason = "content_filter" if stop == "refusal" else "max_output_tokens"
        details = {"reason": reason} if status == "incomplete" else None
        return self._written(status, output, usage, details, None)

    def failed(self, error: AnswerError, output: list[Json | Raw]) -> bytes:
        """The response as it fails."""
        code = error.code if error.code in _ERROR_CODES else error.type
        fault = {
            "code": code if code in _ERROR_CODES else "server_error",
            "message": error.message,
        }
        return self._written("failed", output, None, None, fault)

    def _written(
        self,
        status: str,
        output: list[Json | Raw],
        usage: Usage | None,
        details: Json | None,
        error: Json | None,
    ) -> bytes:
        return msgspec.json.encode(
            {
                **self._head,
                "status": status,
                "error": error,
                "incomplete_details": details,
                "output": output,
                "usage": None if usage is None else usage_json(usage),
            }
        )


class Output:
    """The items of a whole answer, as its blocks are added."""

    def __init__(self, asked: Asked, status: str) -> None:
        self._asked = asked
        self._status = status
        self._items: list[Json | Raw] = []
        self._parts: list[Json] = []
        self._start = 0  # where the last block begins in its part's text

    def done(self) -> list[Json | Raw]:
        """All items; nothing may be added after it."""
        self._flush(self._status)
        return self._items

    def _flush(self, status: str = "completed") -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._items.append(message_item(self._id("msg"), parts, status))

    def _id(self, kind: str) -> str:
        return item_id(kind, self._asked, len(self._items))

    def add(self, block: Block) -> None:
        """Add the next block."""
        match block:
            case Text(text=text):
                if self._parts and self._parts[-1]["type"] == "output_text":
                    self._start = len(self._parts[-1]["text"])
                    self._parts[-1]["text"] += text
                else:
                    self._start = 0
                    self._parts.append(text_part(text))
            case Citation():
                if self._parts and self._parts[-1]["type"] == "output_text":
                    part = self._parts[-1]
                    part["annotations"].append(annotation(block, self._start, len(part["text"])))
            case Refusal(text=text):
                self._parts.append({"type": "refusal", "refusal": text})
            case Thinking():
                self._flush()
                self._items.append(reasoning_item(self._id("rs"), block, block.text))
            case ToolCall():
                self._call(block)
            case _:
                self._other(block)

    def _call(self, block: ToolCall) -> None:
        self._flush()
        if block.signature is not None:
            self._items.append(carrier_item(self._id("rs"), block.signature, "next"))
        kind = "ctc" if block.custom else "fc"
        call_id = block.id or call_ids.made(self._asked.id, len(self._items))
        item = call_item(self._id(kind), block, call_id, self._asked)
        self._items.append(item)

    def _other(self, block: Image | Document | Audio | ToolResult | Opaque) -> None:
        plain = text_of(block)
        if plain:
            self.add(Text(plain))
        elif isinstance(block, Image) and block.data is not None:
            self._flush()
            self._items.append(image_item(self._id("ig"), block))
        elif isinstance(block, Opaque) and block.format == NAME:
            self._flush()
            self._items.append(Raw(block.json))


def text_of(block: Block) -> str | None:
    """The text that stands for a block that this format cannot answer with; None: there is none."""
    match block:
        case Image(url=str() as url):
            return f"![image]({url})"
        case Audio(transcript=transcript):
            return transcript
        case Document(text=text, url=url):
            return text or url
        case _:
            return None


def text_part(text: str, annotations: list[Json] | None = None) -> Json:
    """A part of a message that is text."""
    found = annotations if annotations is not None else []
    return {"type": "output_text", "text": text, "annotations": found, "logprobs": []}


def annotation(citation: Citation, start: int, end: int) -> Json:
    """A citation as an annotation; where it names no place it is that of its block's text."""
    return {
        "type": "url_citation",
        "url": citation.url or "",
        "title": citation.title or citation.quoted or "",
        "start_index": start + citation.start if citation.start is not None else start,
        "end_index": start + citation.end if citation.end is not None else end,
    }


def message_item(name: str, parts: list[Json], status: str) -> Json:
    """A message of the assistant's."""
    return {"id": name, "type": "message", "status": status, "content": parts, "role": "assistant"}


def reasoning_item(name: str, block: Thinking, text: str) -> Json:
    """Thoughts, as a summary; their signature goes where this format has its own."""
    item: Json = {
        "id": name,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
    }
    signature = block.signature
    if signature is not None:
        own = signature.format == NAME
        kind: signatures.Kind = "redacted" if block.redacted else "thinking"
        if own:
            kept, item["encrypted_content"] = signed_item(signature)
            item["id"] = kept or name
        else:
            item["encrypted_content"] = signatures.sealed(signature, kind)
    return item


def carrier_item(name: str, signature: Signature, kind: signatures.Kind) -> Json:
    """A call's signature: calls have no field for it, so it goes in an item beside its call."""
    sealed = signatures.sealed(signature, kind)
    return {"id": name, "type": "reasoning", "summary": [], "encrypted_content": sealed}


def call_item(name: str, block: ToolCall, call_id: str, asked: Asked) -> Json:
    """A call with all its arguments; `incomplete` where these were cut."""
    own, namespace = function_name(block.name, asked.request.tools)
    item: Json = {"id": name, "call_id": call_id, "name": own}
    if namespace is not None:
        item["namespace"] = namespace
    if block.custom:
        return {**item, "type": "custom_tool_call", "input": block.arguments}
    arguments = block.arguments or "{}"
    status = "completed" if lenient.anything(arguments.encode()) is not None else "incomplete"
    return {**item, "type": "function_call", "arguments": arguments, "status": status}


def image_item(name: str, block: Image) -> Json:
    """A generated image."""
    kind = (block.media_type or "image/png").removeprefix("image/")
    return {
        "id": name,
        "type": "image_generation_call",
        "status": "completed",
        "result": block.data,
        "output_format": kind,
    }

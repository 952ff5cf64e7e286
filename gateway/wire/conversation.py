"""The neutral model: what a request asks and what an answer says, whatever format it came in.

Small and closed. A format's reader makes these values, a format's writer turns them into its own
bytes; neither knows another format. Where a format has no place for something, its table
(`Support`) says so, and the loss is told to the caller: refused, or named as ignored. Nothing here
is extended to mirror one vendor: what only one format knows is an `Opaque` block, which goes back
to that format alone, as the bytes it came in. Pure values; usage is `neutral.Usage`.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.wire.neutral import Usage

Role = Literal["system", "user", "assistant"]
"""Tool results are blocks of a user message. "system" is also OpenAI's "developer"."""

StopReason = Literal["end", "max_tokens", "tool_call", "stop_sequence", "refusal", "pause"]
"""Why an answer ended. "refusal" is any block by a filter or a policy; "pause" a turn that the
provider will go on with. A reason that a format does not tell follows from the content."""


class Signature(msgspec.Struct, frozen=True):
    """Opaque state of a provider's, valid where it was issued: goes back to `format` alone."""

    format: str
    value: str


class Text(msgspec.Struct, frozen=True):
    """Text. `cache` marks the end of a prefix worth keeping; None: not marked."""

    text: str
    cache: Literal["5m", "1h"] | None = None
    signature: Signature | None = None


class Thinking(msgspec.Struct, frozen=True):
    """Reasoning, or a summary of it; `text` may be empty where only its signature is given.

    `redacted`: there is no text, and `signature` is what the provider encrypted.
    """

    text: str
    signature: Signature | None = None
    redacted: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a function of the caller's. `arguments` is JSON text as the model wrote it; it may
    be cut. `custom`: the argument is plain text.
    """

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: Signature | None = None


class Image(msgspec.Struct, frozen=True):
    """An image: base64 `data` of a `media_type`, or a `url`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    detail: str | None = None
    cache: Literal["5m", "1h"] | None = None


class Document(msgspec.Struct, frozen=True):
    """A document: base64 `data` of a `media_type`, a `url`, or plain `text`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    text: str | None = None
    name: str | None = None
    cache: Literal["5m", "1h"] | None = None


class Audio(msgspec.Struct, frozen=True):
    """Sound: base64 `data` of a `media_type` ("audio/wav", …); `transcript` where one is given."""

    media_type: str
    data: str
    transcript: str | None = None


class Refusal(msgspec.Struct, frozen=True):
    """The model's own words where it declines."""

    text: str


class Citation(msgspec.Struct, frozen=True):
    """A source for the text block before it; `start` and `end` are characters of that text."""

    url: str | None = None
    title: str | None = None
    quoted: str | None = None
    start: int | None = None
    end: int | None = None


class Opaque(msgspec.Struct, frozen=True):
    """What only `format` knows: its JSON, given back to that format unchanged."""

    format: str
    json: bytes
    kind: str = ""
    """Its type, for messages that name it."""


class ToolResult(msgspec.Struct, frozen=True):
    """What a function of the caller's returned: text, images, documents. `name` may have to be
    found in the history by `call_id`; writers that need it do so.
    """

    call_id: str
    content: "tuple[Block, ...]"
    name: str | None = None
    is_error: bool = False
    cache: Literal["5m", "1h"] | None = None


Block = (
    Text | Thinking | ToolCall | ToolResult | Image | Document | Audio | Refusal | Citation | Opaque
)


class Message(msgspec.Struct, frozen=True):
    """One turn, or a part of one: neighbours of the same role belong together."""

    role: Role
    content: tuple[Block, ...]
    name: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call. `schema` is JSON Schema as its bytes, None: no arguments.

    `opaque` is a tool that the provider runs, or of a kind that only its format knows. `grammar` is
    the syntax ("lark", "regex") and definition that a custom tool's input keeps to. `namespace` is
    the group by which its caller's format tells it apart: `name` begins with it. `search` is an
    opaque tool that another format leaves out (`searches.py`).
    """

    name: str
    description: str | None = None
    schema: bytes | None = None
    strict: bool | None = None
    custom: bool = False
    cache: Literal["5m", "1h"] | None = None
    opaque: Opaque | None = None
    grammar: tuple[str, str] | None = None
    namespace: str | None = None
    search: bool = False


class ToolChoice(msgspec.Struct, frozen=True):
    """`names` narrows "required" (one name: that function) and "auto" (only these allowed)."""

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...] = ()


class OutputFormat(msgspec.Struct, frozen=True):
    """JSON output: of a schema (JSON Schema as its bytes), or any JSON where it is None."""

    schema: bytes | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Reasoning(msgspec.Struct, frozen=True):
    """How much to think: an effort, or a budget in tokens (0: not at all; -1: as it sees fit).

    `show` asks for the thoughts, or a summary, in the answer; None: the format's default.
    """

    effort: Effort | None = None
    budget_tokens: int | None = None
    show: bool | None = None


Feature = Literal[
    "late_system", "message_name", "prefill", "image_data", "image_url", "image_detail", "audio",
    "document_data", "document_url", "document_text", "file_id", "video", "tools", "custom_tools",
    "tool_grammar", "provider_tools", "offered_search", "strict_tools", "tool_choice",
    "tool_choice_several", "parallel_tool_calls",
    "tool_result_image", "tool_result_document", "tool_result_error", "json_object", "json_schema",
    "stop", "temperature", "temperature_above_1", "top_p", "top_k", "seed", "choices", "logprobs",
    "logit_bias", "frequency_penalty", "presence_penalty", "max_output_tokens", "reasoning",
    "thinking_history", "opaque_history", "audio_output", "image_output", "verbosity", "prediction",
    "user", "metadata", "service_tier", "prompt_cache", "safety_settings", "store", "stored_state",
    "background", "truncation", "include", "moderation",
]  # fmt: skip
"""Everything that a request may ask for beside model, messages and stream. Closed: a field that is
none of these is `Request.unknown`: dropped and told, never forwarded to another format."""

Support = Literal["yes", "ignored", "refused"]
"""What a format makes of a feature: it has a place for it; a pure hint that is dropped and told; or
a 400 `unsupported_parameter`. A writer may still refuse a value that a "yes" has no place for."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, read. `spelled` has every feature in use, and what its caller calls the field;
    `unknown` are fields that the reader does not know. Leading system text is `system`; a later
    one stays a message of its own.
    """

    format: str
    model: str
    stream: bool
    system: tuple[Block, ...] = ()
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    output: OutputFormat | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    choices: int = 1
    top_logprobs: int | None = None
    """How many alternatives besides each token's own; None: no logprobs."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    user: str | None = None
    metadata: Mapping[str, str] = {}
    include_usage: bool = False
    """OpenAI chat only: the caller wants the chunk with usage."""
    spelled: Mapping[Feature, str] = {}
    unknown: tuple[str, ...] = ()


class Choice(msgspec.Struct, frozen=True):
    """One of an answer's alternatives. `logprobs` are (token, logprob, alternatives) in order."""

    content: tuple[Block, ...]
    stop: StopReason
    stop_sequence: str | None = None


class AnswerError(msgspec.Struct, frozen=True):
    """Why a provider gave no answer although it said 200, or what a 4xx or 5xx said.

    `type` is the provider's word, None where it gave none; "content_filter" is any blocked prompt.
    """

    message: str
    type: str | None = None
    code: str | None = None
    retry_after_s: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One whole answer. `error` is set where it is none: blocked prompts, failed responses."""

    id: str | None
    model: str | None
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    created_s: int | None = None
    error: AnswerError | None = None

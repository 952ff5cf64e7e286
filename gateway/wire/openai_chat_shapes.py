"""The objects of an OpenAI chat request, as they are decoded; `openai_chat_requests.py` reads them.

Nulls and absences are alike. What only one of several readings needs stays undecoded (`Raw`).
"""

import re
from collections.abc import Mapping
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire.conversation import Effort, ToolChoice

_T = TypeVar("_T")
ABSENT = Raw()
_PATH = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_KEYS = msgspec.json.Decoder(dict[str, Raw])
_ITEMS = msgspec.json.Decoder(list[Raw])
AS_IT_SEES_FIT = -1
"""A budget for thoughts that is the model's own affair."""

_NOTHING = (b"", b"null", b"[]", b"{}", b'""')

Count = Annotated[int, msgspec.Meta(ge=1)]
Extent = Annotated[int, msgspec.Meta(ge=0)]
Lifetime = Literal["5m", "1h"]


def sent(raw: Raw) -> bool:
    """Whether there is a value."""
    return raw is not ABSENT and bytes(raw) not in (b"", b"null")


def says(raw: Raw) -> bool:
    """Whether leaving it out loses anything."""
    return raw is not ABSENT and bytes(raw) not in _NOTHING


class Known(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object whose members are all listed; `Reading` leaves others out and names them."""


class StreamOptions(Known):
    """`stream_options`."""

    include_usage: bool | None = None


class OpenRouterReasoning(Known):
    """OpenRouter's `reasoning`."""

    effort: str | None = None
    max_tokens: Extent | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class Switch(Known):
    """`thinking` of DeepSeek, Z.ai and Moonshot; servers that front Anthropic take a budget."""

    type: str
    budget_tokens: Extent | None = None


class LegacyFunction(Known):
    """A function: within a tool, or of the legacy `functions`."""

    name: str
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None


class Body(Known):
    """A request."""

    model: str | None = None
    messages: list[Raw] = msgspec.field(default_factory=list)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Raw] | None = None
    tool_choice: Raw = ABSENT
    functions: list[LegacyFunction] | None = None
    function_call: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    response_format: Raw = ABSENT
    reasoning_effort: str | None = None
    reasoning: OpenRouterReasoning | None = None
    thinking: Switch | None = None
    enable_thinking: bool | None = None
    include_reasoning: bool | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    random_seed: int | None = None
    n: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Extent | None = None
    logit_bias: Raw = ABSENT
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: Raw = ABSENT
    store: Raw = ABSENT
    verbosity: Raw = ABSENT
    prediction: Raw = ABSENT
    modalities: list[str] | None = None
    audio: Raw = ABSENT
    moderation: Raw = ABSENT
    web_search_options: Raw = ABSENT


class Cache(Known):
    """A `cache_control`."""

    type: str | None = None
    ttl: str | None = None


class Function(Known):
    """What a call calls."""

    name: str | None = None
    arguments: str | None = None


class Custom(Known):
    """The same of a custom tool, whose argument is text."""

    name: str
    input: str = ""


class Call(Known):
    """A call in the history."""

    id: str | None = None
    type: str | None = None
    index: int | None = None
    function: Function | None = None
    custom: Custom | None = None


class Message(Known):
    """A message of any role."""

    role: str
    content: str | list[Raw] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None
    refusal: str | None = None
    audio: Raw = ABSENT
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Raw = ABSENT
    prefix: bool | None = None
    partial: bool | None = None
    cache_control: Cache | None = None


class Url(Known):
    """An `image_url`."""

    url: str
    detail: str | None = None


class File(Known):
    """A `file`."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Sound(Known):
    """An `input_audio`."""

    data: str
    format: str = "wav"


class Part(Known):
    """A part of content, of the kinds that are read; others keep their bytes."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    input_audio: Sound | str | None = None
    file: File | None = None
    thinking: Raw = ABSENT
    closed: bool | None = None
    document_url: str | None = None
    document_name: str | None = None
    cache_control: Cache | None = None
    prompt_cache_breakpoint: Raw = ABSENT

    def cache(self) -> Lifetime | None:
        """How long the prefix that it ends is kept."""
        return cache_of(self.cache_control) or (
            "5m" if sent(self.prompt_cache_breakpoint) else None
        )


class ThoughtPart(Known):
    """A part of Mistral's `thinking`."""

    type: str | None = None
    text: str = ""


class Grammar(Known):
    """What constrains the text of a custom tool."""

    syntax: str
    definition: str


class CustomFormat(Known):
    """The `format` of a custom tool."""

    type: str | None = None
    grammar: Grammar | None = None


class CustomTool(Known):
    """A custom tool."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class Tool(Known):
    """A tool."""

    type: str | None = None
    function: LegacyFunction | None = None
    custom: CustomTool | None = None
    cache_control: Cache | None = None


class Named(Known):
    """The name of a tool."""

    name: str


class Allowed(Known):
    """The tools that a choice is narrowed to."""

    mode: Literal["auto", "required"]
    tools: list["Choice"]


class Choice(Known):
    """A tool choice that is an object."""

    type: str | None = None
    name: str | None = None
    function: Named | None = None
    custom: Named | None = None
    allowed_tools: Allowed | None = None


class Schema(Known):
    """A `json_schema`."""

    name: str | None = None
    description: str | None = None
    schema: Raw = ABSENT
    strict: bool | None = None


class ResponseFormat(Known):
    """A `response_format`."""

    type: str
    json_schema: Schema | None = None


def cache_of(control: Cache | None) -> Lifetime | None:
    """How long a `cache_control` keeps the prefix that it ends."""
    if control is None:
        return None
    return "1h" if control.ttl == "1h" else "5m"


def invalid(message: str, param: str) -> GatewayError:
    """The 400 for a field that makes no sense."""
    return GatewayError("invalid_request", message, param=param or None)


def decode(decoder: msgspec.json.Decoder[_T], raw: bytes | Raw, at: str) -> _T:
    """Decode the value of the field `at`; raises `invalid_request` naming what is wrong in it."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        match = _PATH.fullmatch(str(exc))
        reason, path = (match[1], match[2] or "") if match else (str(exc), "")
        param = f"{at}{path}".removeprefix(".")
        reason = reason.replace("`", "").replace("Object ", "object ", 1)
        raise invalid(f"{param or 'The request body'} is not valid: {reason}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(f"{at or 'The request body'} is not valid JSON.", at) from None


class Reading(Generic[_T]):
    """How an object is read: at once where all its members are known, else without the others."""

    def __init__(self, kind: type[_T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, raw: bytes | Raw, at: str, under: str, unknown: list[str]) -> _T:
        """The object `raw`, found at `at`; unknown members are added as `under` and their name.

        Raises `invalid_request` naming what is wrong in it.
        """
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:
            known = _known_part(bytes(raw).strip(), self._kind, under, unknown)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            known = bytes(raw)
        return decode(self._decoder, known, at)


def _known_part(raw: bytes, kind: Any, under: str, unknown: list[str]) -> bytes:
    """The JSON `raw` without the members of objects that their types do not list.

    Everything else keeps its bytes. Members that say anything are named in `unknown`, once.
    """
    for one in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if raw[:1] == b"[" and get_origin(one) is list:
            items = _ITEMS.decode(raw)
            inner = get_args(one)[0]
            return b"[%b]" % b",".join(
                _known_part(bytes(item), inner, under, unknown) for item in items
            )
        if raw[:1] == b"{" and isinstance(one, type) and issubclass(one, Known):
            return _known_members(raw, one, under, unknown)
    return raw


def _known_members(raw: bytes, kind: type[Known], under: str, unknown: list[str]) -> bytes:
    types = get_type_hints(kind)
    kept = []
    for name, member in _KEYS.decode(raw).items():
        if name in types:
            value = _known_part(bytes(member), types[name], f"{under}{name}.", unknown)
            kept.append(b"%b:%b" % (msgspec.json.encode(name), value))
        elif says(member) and under + name not in unknown:
            unknown.append(under + name)
    return b"{%b}" % b",".join(kept)


def data_uri(uri: str, at: str) -> tuple[str, str]:
    """The media type and the base64 text of a data URI; raises `invalid_request`."""
    head, comma, data = uri[5:].partition(",")
    media_type, *settings = head.split(";")
    if not comma or "base64" not in settings:
        raise invalid(f"{at} must be a URL, or a data URI in base64.", at)
    return media_type or "application/octet-stream", data


def thought_field(found: Message) -> str:
    """The field of an assistant message that its thoughts are in."""
    for field in ("reasoning_content", "reasoning"):
        if getattr(found, field):
            return field
    return "reasoning_details"


def choice_of(found: str | Choice | None, field: str) -> ToolChoice:
    """Which tools may or must be called; raises `invalid_request` naming `field`."""
    match found:
        case None | "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required" | "any":
            return ToolChoice("required")
        case Choice(allowed_tools=Allowed(mode=mode, tools=tools)):
            names = tuple(name for tool in tools if (name := _named(tool)) is not None)
            return ToolChoice(mode, names)
        case Choice():
            name = _named(found)
            if name is not None:
                return ToolChoice("required", (name,))
    raise invalid(f"{field} is not a choice that is known.", field)


def _named(choice: Choice) -> str | None:
    """The function that a choice names: nested, or flat as the legacy `function_call` has it."""
    named = choice.function or choice.custom
    return named.name if named is not None else choice.name


EFFORTS: Mapping[str, Effort] = {
    "none": "none",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""What `reasoning_effort` may be; "max" is more than the neutral scale has."""


def reasoning_of(found: Body) -> tuple[str | None, int | None, bool | None, str | None]:
    """Effort, budget, whether to show the thoughts, and the field that says so first."""
    if found.reasoning_effort is not None:
        return found.reasoning_effort, None, found.include_reasoning, "reasoning_effort"
    own = found.reasoning
    if own is not None:
        show = None if own.exclude is None else not own.exclude
        budget = own.max_tokens
        if budget is None and own.effort is None and own.enabled is not None:
            budget = AS_IT_SEES_FIT if own.enabled else 0
        return own.effort, budget, show, "reasoning"
    switch = found.thinking
    if switch is not None:
        budget = 0 if switch.type == "disabled" else switch.budget_tokens
        return None, AS_IT_SEES_FIT if budget is None else budget, None, "thinking"
    if found.enable_thinking is not None:
        return None, AS_IT_SEES_FIT if found.enable_thinking else 0, None, "enable_thinking"
    if found.include_reasoning is not None:
        return None, None, found.include_reasoning, "include_reasoning"
    return None, None, None, None

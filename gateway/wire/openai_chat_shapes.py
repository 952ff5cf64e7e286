"""The objects of an OpenAI chat request, as they are decoded; `openai_chat_requests.py` reads them.

Nulls and absences are alike. What only one of several readings needs stays undecoded (`Raw`).
"""

import re
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Raw

from gateway.errors import GatewayError
from gateway.wire.conversation import ToolChoice

_T = TypeVar("_T")
ABSENT = Raw()
_PATH = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_KEYS = msgspec.json.Decoder(dict[str, Raw])
AS_IT_SEES_FIT = -1
"""A budget for thoughts that is the model's own affair."""

_NOTHING = (b"", b"null", b"[]", b"{}", b'""')

Count = Annotated[int, msgspec.Meta(ge=1)]
Extent = Annotated[int, msgspec.Meta(ge=0)]
Lifetime = Literal["5m", "1h"]


def sent(raw: Raw) -> bool:
    """Whether there is a value."""
    return bool(raw) and raw != b"null"


def says(raw: Raw) -> bool:
    """Whether leaving it out loses anything."""
    return bytes(raw) not in _NOTHING


class Known(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object whose members are all listed; its subclass `…AndMore` takes in others."""


class StreamOptions(msgspec.Struct, gc=False):
    """`stream_options`."""

    include_usage: bool | None = None


class OpenRouterReasoning(msgspec.Struct, gc=False):
    """OpenRouter's `reasoning`."""

    effort: str | None = None
    max_tokens: Extent | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class Switch(msgspec.Struct, gc=False):
    """`thinking` of DeepSeek, Z.ai and Moonshot; servers that front Anthropic take a budget."""

    type: str
    budget_tokens: Extent | None = None


class LegacyFunction(msgspec.Struct, gc=False):
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


class BodyAndMore(Body, forbid_unknown_fields=False):
    """A request with members that are not known."""


class Cache(msgspec.Struct, gc=False):
    """A `cache_control`."""

    ttl: str | None = None


class Function(msgspec.Struct, gc=False):
    """What a call calls."""

    name: str | None = None
    arguments: str | None = None


class Custom(msgspec.Struct, gc=False):
    """The same of a custom tool, whose argument is text."""

    name: str
    input: str = ""


class Call(msgspec.Struct, gc=False):
    """A call in the history."""

    id: str | None = None
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


class MessageAndMore(Message, forbid_unknown_fields=False):
    """A message with members that are not known."""


class Url(msgspec.Struct, gc=False):
    """An `image_url`."""

    url: str
    detail: str | None = None


class File(msgspec.Struct, gc=False):
    """A `file`."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Sound(msgspec.Struct, gc=False):
    """An `input_audio`."""

    data: str
    format: str = "wav"


class Part(msgspec.Struct, gc=False):
    """A part of content, of the kinds that are read; others keep their bytes."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Url | str | None = None
    input_audio: Sound | str | None = None
    file: File | None = None
    thinking: Raw = ABSENT
    document_url: str | None = None
    document_name: str | None = None
    cache_control: Cache | None = None
    prompt_cache_breakpoint: Raw = ABSENT

    def cache(self) -> Lifetime | None:
        """How long the prefix that it ends is kept."""
        return cache_of(self.cache_control) or (
            "5m" if sent(self.prompt_cache_breakpoint) else None
        )


class ThoughtPart(msgspec.Struct, gc=False):
    """A part of Mistral's `thinking`."""

    text: str = ""


class Grammar(msgspec.Struct, gc=False):
    """What constrains the text of a custom tool."""

    syntax: str
    definition: str


class CustomFormat(msgspec.Struct, gc=False):
    """The `format` of a custom tool."""

    grammar: Grammar | None = None


class CustomTool(msgspec.Struct, gc=False):
    """A custom tool."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class Tool(msgspec.Struct, gc=False):
    """A tool."""

    type: str | None = None
    function: LegacyFunction | None = None
    custom: CustomTool | None = None
    cache_control: Cache | None = None


class Named(msgspec.Struct, gc=False):
    """The name of a tool."""

    name: str


class Allowed(msgspec.Struct, gc=False):
    """The tools that a choice is narrowed to."""

    mode: Literal["auto", "required"]
    tools: list["Choice"]


class Choice(msgspec.Struct, gc=False):
    """A tool choice that is an object."""

    type: str | None = None
    name: str | None = None
    function: Named | None = None
    custom: Named | None = None
    allowed_tools: Allowed | None = None


class Schema(msgspec.Struct, gc=False):
    """A `json_schema`."""

    name: str | None = None
    description: str | None = None
    schema: Raw = ABSENT
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, gc=False):
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
    """How an object is read: at once where all its members are known, else noting the others."""

    def __init__(self, known: type[_T], and_more: type[_T]) -> None:
        self._known = msgspec.json.Decoder(known)
        self._and_more = msgspec.json.Decoder(and_more)
        self._names = frozenset(field.name for field in msgspec.structs.fields(known))  # type: ignore[arg-type]

    def read(self, raw: bytes | Raw, at: str, under: str, unknown: list[str]) -> _T:
        """The object `raw`, found at `at`; unknown members are added as `under` and their name."""
        try:
            return self._known.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = decode(self._and_more, raw, at)
        for name, member in _KEYS.decode(raw).items():
            field = under + name
            if name not in self._names and field not in unknown and says(member):
                unknown.append(field)
        return value


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

"""A cheap reading of conversations: texts, inline images, tool calls and their results.

`known.py` reads all that is known of a request, and makes an object of everything that it looks
at, to be walked over in Python. Of the main list of a request (`messages`, `input`, `contents`) the
readings here ask only whether it is one of the common kinds. Where they return True that is proved,
and what counts besides bytes is noted in `Found`. Where they return False nothing is proved: there
is a document, sound, a role of tomorrow, or no sense at all, and `known.py` has to look closer.
Used by `demand.py`, on one thread.

What is proved, and how. Every field of every object is listed, as there, but in calls of tools and
their results (`_Call`, `_Output`): of these only what holds content is looked at, since objects for
their ids and names would be a seventh of the work. That is safe as far as vendors bring new content
in by new types, which are refused here, and refuse fields that they do not know. A decoder holds
each occurrence of a key to its type, so no spelling hides anything, nor does saying a key again.
What counts notes itself while it is decoded, so that there is no walk over the objects.

Measured (CPython 3.11, one busy core; in brackets by `known.py`, then unread): the messages of a
coding agent, 120 KB in 500 blocks, 140 µs (240, 61), its items of Responses, 144 KB in 480, 130
(215, 62); 100 KB in one message 31 (47, 26), in 250 messages 85 (98, 33), as 250 parts 46 (63, 29).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, field

from gateway.wire.known import Found

LARGE_BYTES = 16 * 1024
"""From here on it is worth a look whether a few texts are all there is."""

_PROBES = 4
_PROBE_BYTES = 320
_ABSENT = Raw()

_ImageUrl = Annotated[str, Meta(pattern=r"\Adata:image/")]
_ImageType = Annotated[str, Meta(pattern=r"\Aimage/")]


class _Reading:
    """What the reading under way notes in."""

    found = Found()


_reading = _Reading()


class _Strict(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object of which every field is listed."""


class _Control(_Strict):
    """A `cache_control`. One that is not plainly of the short kind counts as the long."""

    type: Literal["ephemeral"]
    ttl: Raw = _ABSENT

    def __post_init__(self) -> None:
        _reading.found.cached_for("1h" if self.ttl else "5m")


class _Call(msgspec.Struct, gc=False):
    """A call of a tool that the caller runs: whatever its fields, a model wrote them as text."""


class _Output(msgspec.Struct, gc=False):
    """What such a tool gave back, but for its content; null says nothing."""

    source: None = None
    file_id: None = None
    image_url: None = None


# -- OpenAI ------------------------------------------------------------------------------------


class _Text(_Strict, tag="text"):
    text: Raw
    cache_control: _Control | None = None


class _Url(_Strict):
    url: _ImageUrl
    detail: Raw = _ABSENT


class _Image(_Strict, tag="image_url"):
    image_url: _Url
    cache_control: _Control | None = None

    def __post_init__(self) -> None:
        _reading.found.image(len(self.image_url.url))


class _Message(_Strict):
    """A chat message. The names of roles are listed as that spares an object for each."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Text | _Image] | None = None
    tool_calls: Raw = _ABSENT
    tool_call_id: Raw = _ABSENT
    name: Raw = _ABSENT
    refusal: Raw = _ABSENT
    annotations: Raw = _ABSENT
    reasoning_content: Raw = _ABSENT
    function_call: Raw = _ABSENT
    audio: None = None
    cache_control: _Control | None = None


class _InputText(_Strict, tag="input_text"):
    text: Raw


class _OutputText(_Strict, tag="output_text"):
    text: Raw
    annotations: Raw = _ABSENT
    logprobs: Raw = _ABSENT


class _InputImage(_Strict, tag="input_image"):
    image_url: _ImageUrl
    detail: Raw = _ABSENT
    file_id: None = None

    def __post_init__(self) -> None:
        _reading.found.image(len(self.image_url))


_Parts = list[_InputText | _OutputText | _InputImage]


class _Item(_Strict, tag="message"):
    """A message in Responses; one without content would be a reference to a stored one."""

    content: str | _Parts
    role: Literal["system", "developer", "user", "assistant"]
    id: Raw = _ABSENT
    status: Raw = _ABSENT
    phase: Raw = _ABSENT


class _Reasoning(_Strict, tag="reasoning"):
    """Earlier reasoning. Without its content it would be one kept by the provider."""

    encrypted_content: Annotated[str, Meta(min_length=1)]
    id: Raw = _ABSENT
    summary: Raw = _ABSENT
    status: Raw = _ABSENT
    content: None = None


class _FunctionCall(_Call, tag="function_call"):
    pass


class _CustomCall(_Call, tag="custom_tool_call"):
    pass


class _FunctionOutput(_Output, tag="function_call_output"):
    output: str | _Parts | None = None


class _CustomOutput(_Output, tag="custom_tool_call_output"):
    output: str | _Parts | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_INPUT = msgspec.json.Decoder(
    list[_Item | _Reasoning | _FunctionCall | _CustomCall | _FunctionOutput | _CustomOutput]
)


def chat(raw: Raw, found: Found) -> bool:
    """Whether chat `messages` are of the common kinds alone."""
    return _few_texts(raw) or _decodes(_MESSAGES, raw, found)


def responses(raw: Raw, found: Found) -> bool:
    """Whether the `input` of a Responses request is; each item must say its type."""
    return memoryview(raw)[0] == 0x22 or _decodes(_INPUT, raw, found)


# -- Anthropic ---------------------------------------------------------------------------------


class _Source(_Strict):
    type: Literal["base64"]
    media_type: _ImageType
    data: Raw


class _Picture(_Strict, tag="image"):
    source: _Source
    cache_control: _Control | None = None

    def __post_init__(self) -> None:
        _reading.found.image(len(self.source.data))


class _Thinking(_Strict, tag="thinking"):
    thinking: Raw
    signature: Raw = _ABSENT


class _HiddenThinking(_Strict, tag="redacted_thinking"):
    data: Raw


class _Use(_Call, tag="tool_use"):
    cache_control: _Control | None = None


class _Result(_Output, tag="tool_result"):
    content: str | list[_Text | _Picture] | None = None
    cache_control: _Control | None = None


class _Turn(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[_Text | _Use | _Result | _Picture | _Thinking | _HiddenThinking]


_TURNS = msgspec.json.Decoder(list[_Turn])


def anthropic(raw: Raw, found: Found) -> bool:
    """Whether Anthropic `messages` are of the common kinds alone."""
    return _few_texts(raw) or _decodes(_TURNS, raw, found)


# -- Gemini ------------------------------------------------------------------------------------


class _Blob(_Strict):
    mime_type: _ImageType = field(name="mimeType")
    data: Raw

    def __post_init__(self) -> None:
        _reading.found.image(len(self.data))


class _FunctionResponse(_Strict):
    id: Raw = _ABSENT
    name: Raw = _ABSENT
    response: Raw = _ABSENT


class _GeminiPart(_Strict):
    """A part has no type: its fields say of which kind it is, so that none is passed over."""

    text: Raw = _ABSENT
    thought: bool | None = None
    thought_signature: Raw = field(name="thoughtSignature", default=_ABSENT)
    function_call: Raw = field(name="functionCall", default=_ABSENT)
    function_response: _FunctionResponse | None = field(name="functionResponse", default=None)
    inline_data: _Blob | None = field(name="inlineData", default=None)


class _Content(_Strict):
    role: Literal["user", "model", "function"] | None = None
    parts: list[_GeminiPart] | None = None


_CONTENTS = msgspec.json.Decoder(list[_Content])


def gemini(raw: Raw, found: Found) -> bool:
    """Whether Gemini `contents` are of the common kinds alone."""
    return _decodes(_CONTENTS, raw, found)


# -- all ---------------------------------------------------------------------------------------


def _decodes(decoder: "msgspec.json.Decoder[Any]", raw: Raw, found: Found) -> bool:
    _reading.found = found
    try:
        decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


_MEMBERS = msgspec.json.Decoder(list[dict[str, Raw]])
_SAID = frozenset(("role", "content"))


def _few_texts(raw: Raw) -> bool:
    """Whether a large list of a few messages says nothing but `role` and `content`, both texts.

    Long texts are passed over, not decoded, which takes two thirds of the time. As a key said
    twice would go unseen, the members found must add up to all the bytes: that proves compact
    bodies, and only those.
    """
    size = len(raw)
    if size < LARGE_BYTES or not _looks_few(raw, size):
        return False
    try:
        messages = _MEMBERS.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    added = 1 + len(messages)
    for members in messages:
        if not members.keys() <= _SAID:
            return False
        added += 1
        for key, value in members.items():
            if memoryview(value)[0] != 0x22:
                return False
            added += len(key) + 4 + len(value)
    return added == size


def _looks_few(raw: Raw, size: int) -> bool:
    """Guess whether it is: the last content is a text, and no message begins at a few places."""
    view = memoryview(raw)
    if bytes(view[-3:]) != b'"}]' or b'": ' in bytes(view[:64]):
        return False
    step = size // _PROBES
    return not any(
        b'"role"' in bytes(view[at : at + _PROBE_BYTES]) for at in range(step // 2, size, step)
    )

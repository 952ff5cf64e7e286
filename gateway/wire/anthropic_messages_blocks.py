"""Anthropic content blocks, read and written: the piece that requests and answers share.

`content` reads a message's content into neutral blocks, the `written…` functions make the JSON of
one block. JSON goes through as it came: a call's input is spliced, never decoded and encoded, so
that numbers and the order of keys stay. State that another format's provider issued travels in
`signature` and `data` (`signatures.py`); where it belongs to a call, in a thinking block of its own
next to it. What is no block of the neutral model is `Opaque`. Shapes: docs.anthropic.com,
"Messages" (November 2026), and recorded traffic. Used by the other modules of this format.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
import orjson

from gateway.wire import call_ids, signatures
from gateway.wire.conversation import (
    Block,
    Citation,
    Document,
    Feature,
    Image,
    Opaque,
    Signature,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

FORMAT = "anthropic_messages"

Lifetime = Literal["5m", "1h"]

replace = msgspec.structs.replace
_ABSENT = msgspec.Raw()


class Unwritable(Exception):
    """A block that has no place here; `feature` says which field of the caller's it came from."""

    def __init__(self, feature: Feature | None, reason: str) -> None:
        super().__init__(reason)
        self.feature = feature
        self.reason = reason


# -- reading -----------------------------------------------------------------------------------


class CacheControl(msgspec.Struct, frozen=True):
    """`cache_control`; five minutes where it names no lifetime."""

    ttl: str | None = None

    @property
    def lifetime(self) -> Lifetime:
        """The lifetime, in the neutral model's words."""
        return "1h" if self.ttl == "1h" else "5m"


class _Kind(msgspec.Struct, frozen=True):
    type: str


class _Text(msgspec.Struct, frozen=True):
    text: str
    cache_control: CacheControl | None = None
    citations: msgspec.Raw = _ABSENT


class _Thinking(msgspec.Struct, frozen=True):
    thinking: str = ""
    signature: str | None = None


class _Redacted(msgspec.Struct, frozen=True):
    data: str


class _ToolUse(msgspec.Struct, frozen=True):
    id: str
    name: str
    input: msgspec.Raw = _ABSENT


class _ToolResult(msgspec.Struct, frozen=True):
    tool_use_id: str
    content: msgspec.Raw = _ABSENT
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class _Source(msgspec.Struct, frozen=True):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: msgspec.Raw = _ABSENT


class _Media(msgspec.Struct, frozen=True):
    source: _Source
    title: str | None = None
    context: str | None = None
    citations: msgspec.Raw = _ABSENT
    cache_control: CacheControl | None = None


class _Citation(msgspec.Struct, frozen=True):
    cited_text: str | None = None
    url: str | None = None
    source: str | None = None
    title: str | None = None
    document_title: str | None = None


class _Carried(msgspec.Struct, frozen=True):
    """A thinking block that only carries the signature of the call beside it."""

    signature: Signature
    kind: Literal["next", "previous"]


_KIND = msgspec.json.Decoder(_Kind)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(_Text)
_THINKING = msgspec.json.Decoder(_Thinking)
_REDACTED = msgspec.json.Decoder(_Redacted)
_TOOL_USE = msgspec.json.Decoder(_ToolUse)
_TOOL_RESULT = msgspec.json.Decoder(_ToolResult)
_MEDIA = msgspec.json.Decoder(_Media)
_CITATION = msgspec.json.Decoder(_Citation)

_Parts = list["Block | _Carried"]


def content(raw: msgspec.Raw | bytes, left_out: list[str]) -> tuple[Block, ...]:
    """Read a message's content: a string, or a list of blocks.

    Adds to `left_out` what of a block the neutral model has no place for. Raises
    msgspec.DecodeError (and its ValidationError) where a known block is not shaped like one.
    """
    found = bytes(raw)
    if found.startswith(b'"'):
        return (Text(_STRING.decode(found)),)
    return content_of(_RAWS.decode(found), left_out)


def content_of(raws: Iterable[msgspec.Raw], left_out: list[str]) -> tuple[Block, ...]:
    """Read a list of blocks; see `content`."""
    blocks: list[Block] = []
    coming: Signature | None = None
    for raw in raws:
        for block in _read(bytes(raw), left_out):
            if isinstance(block, _Carried):
                if block.kind == "next":
                    coming = block.signature
                else:
                    _sign_last_call(blocks, block.signature)
            elif isinstance(block, ToolCall) and coming is not None:
                blocks.append(replace(block, signature=coming))
                coming = None
            else:
                blocks.append(block)
    return tuple(blocks)


def _sign_last_call(blocks: list[Block], signature: Signature) -> None:
    for at in range(len(blocks) - 1, -1, -1):
        call = blocks[at]
        if isinstance(call, ToolCall):
            blocks[at] = replace(call, signature=signature)
            return


def _read(raw: bytes, left_out: list[str]) -> _Parts:
    kind = _KIND.decode(raw).type
    reader = _READERS.get(kind)
    return [Opaque(FORMAT, raw, kind)] if reader is None else reader(raw, left_out)


def _text(raw: bytes, _: list[str]) -> _Parts:
    found = _TEXT.decode(raw)
    lifetime = found.cache_control.lifetime if found.cache_control else None
    blocks: _Parts = [Text(found.text, lifetime)]
    cited = bytes(found.citations)
    if cited.startswith(b"["):
        blocks += [citation(one) for one in _RAWS.decode(cited)]
    return blocks


def citation(raw: msgspec.Raw | bytes) -> Citation:
    """Read a citation. Its offsets count characters of the source, so they are not kept."""
    found = _CITATION.decode(raw)
    url = found.url or found.source
    return Citation(url=url, title=found.title or found.document_title, quoted=found.cited_text)


def _thinking(raw: bytes, _: list[str]) -> _Parts:
    found = _THINKING.decode(raw)
    if not found.signature:
        return [Thinking(found.thinking)]
    carried = signatures.opened(found.signature)
    if carried is None:
        return [Thinking(found.thinking, Signature(FORMAT, found.signature))]
    signature, kind = carried
    if kind == "next" or kind == "previous":
        return [_Carried(signature, kind)]
    return [Thinking(found.thinking, signature, redacted=kind == "redacted")]


def _redacted(raw: bytes, _: list[str]) -> _Parts:
    data = _REDACTED.decode(raw).data
    carried = signatures.opened(data)
    signature = carried[0] if carried else Signature(FORMAT, data)
    return [Thinking("", signature, redacted=True)]


def _tool_use(raw: bytes, _: list[str]) -> _Parts:
    found = _TOOL_USE.decode(raw)
    arguments = bytes(found.input).decode() if found.input else "{}"
    return [ToolCall(call_ids.restored(found.id), found.name, arguments)]


def _tool_result(raw: bytes, left_out: list[str]) -> _Parts:
    found = _TOOL_RESULT.decode(raw)
    silent = not found.content or bytes(found.content) == b"null"
    return [
        ToolResult(
            call_ids.restored(found.tool_use_id),
            () if silent else content(found.content, left_out),
            is_error=bool(found.is_error),
            cache=found.cache_control.lifetime if found.cache_control else None,
        )
    ]


def _image(raw: bytes, _: list[str]) -> _Parts:
    found = _MEDIA.decode(raw)
    lifetime = found.cache_control.lifetime if found.cache_control else None
    source = found.source
    if source.type == "base64" and source.data is not None:
        return [Image(source.media_type, source.data, cache=lifetime)]
    if source.type == "url" and source.url is not None:
        return [Image(url=source.url, cache=lifetime)]
    return [Opaque(FORMAT, raw, "image")]


def _document(raw: bytes, left_out: list[str]) -> _Parts:
    found = _MEDIA.decode(raw)
    source = found.source
    document = Document(
        name=found.title, cache=found.cache_control.lifetime if found.cache_control else None
    )
    if source.type == "base64" and source.data is not None:
        document = replace(document, media_type=source.media_type, data=source.data)
    elif source.type == "url" and source.url is not None:
        document = replace(document, media_type="application/pdf", url=source.url)
    elif source.type == "text" and source.data is not None:
        document = replace(document, media_type=source.media_type, text=source.data)
    elif source.type == "content" and bytes(source.content).startswith(b'"'):
        document = replace(document, media_type="text/plain", text=_STRING.decode(source.content))
    else:
        return [Opaque(FORMAT, raw, "document")]
    if found.context:
        left_out.append("document.context")
    if b"true" in bytes(found.citations):
        left_out.append("document.citations")
    return [document]


_READERS: dict[str, Callable[[bytes, list[str]], _Parts]] = {
    "text": _text,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "image": _image,
    "document": _document,
}


# -- writing -----------------------------------------------------------------------------------

quoted = orjson.dumps
_CACHE: dict[Lifetime | None, bytes] = {
    None: b"",
    "5m": b',"cache_control":{"type":"ephemeral"}',
    "1h": b',"cache_control":{"type":"ephemeral","ttl":"1h"}',
}


def cache_member(lifetime: Lifetime | None) -> bytes:
    """The `cache_control` member with the comma before it, b"" where nothing is marked."""
    return _CACHE[lifetime]


def object_of(arguments: str) -> bytes | None:
    """A call's arguments as the JSON object that they are; `{}` for none, None for anything else.

    What is cut or is no object is not repaired: nobody knows what the model meant.
    """
    if not arguments or arguments.isspace():
        return b"{}"
    try:
        spelled = arguments.encode()
        _OBJECT.decode(spelled)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return spelled


def written_text(text: str, cache: Lifetime | None = None, citations: bytes = b"") -> bytes:
    """A text block; `citations` is the member's value."""
    cited = b',"citations":' + citations if citations else b""
    return b'{"type":"text","text":%b%b%b}' % (quoted(text), _CACHE[cache], cited)


def written_citation(citation: Citation) -> bytes | None:
    """A citation of something on the web, the only kind that needs no document in the request."""
    if citation.url is None:
        return None
    return quoted(
        {
            "type": "web_search_result_location",
            "url": citation.url,
            "title": citation.title,
            "cited_text": citation.quoted or "",
            "encrypted_index": "",
        }
    )


def written_thinking(block: Thinking) -> bytes:
    """A thinking block; a signature of another format is sealed."""
    signature = block.signature
    if block.redacted and signature is not None:
        return b'{"type":"redacted_thinking","data":%b}' % quoted(sealed(signature, "redacted"))
    value = sealed(signature, "thinking") if signature else ""
    return b'{"type":"thinking","thinking":%b,"signature":%b}' % (quoted(block.text), quoted(value))


def sealed(signature: Signature, kind: signatures.Kind) -> str:
    """The signature's value where it is ours; sealed where it is another format's."""
    own = signature.format == FORMAT
    return signature.value if own else signatures.sealed(signature, kind)


def written_call_signature(signature: Signature, kind: signatures.Kind) -> bytes:
    """The thinking block that carries a call's signature next to it."""
    value = quoted(signatures.sealed(signature, kind))
    return b'{"type":"thinking","thinking":"","signature":%b}' % value


def written_call(call: ToolCall, spelled: bytes) -> bytes:
    """A `tool_use` block with `spelled`, a JSON object, as its input."""
    return b'{"type":"tool_use","id":%b,"name":%b,"input":%b}' % (
        quoted(call_ids.safe(call.id)), quoted(call.name), spelled,
    )  # fmt: skip


def written_image(image: Image) -> bytes:
    """An image block. Raises `Unwritable` where data comes without its media type."""
    if image.data is not None and image.media_type is not None:
        source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    elif image.url is not None:
        source = {"type": "url", "url": image.url}
    else:
        raise Unwritable("image_data", "an image needs its media type")
    return b'{"type":"image","source":%b%b}' % (quoted(source), _CACHE[image.cache])


def compact(json: bytes) -> bytes:
    """JSON without line ends, which a stream's events cannot hold."""
    return msgspec.json.format(json, indent=-1) if b"\n" in json or b"\r" in json else json

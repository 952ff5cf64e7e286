"""Parts of a Gemini turn as blocks, and blocks as parts: what requests and answers share.

Media are told apart by their type, not by a field. A signature of another format's travels in
`thoughtSignature`, which SDKs take for base64, as the base64 of what `signatures.sealed` made.
Pure; used by the other `gemini_*` modules. Source: ai.google.dev API reference, "Part", and
"Thought signatures" (November 2026).
"""

import base64
import binascii
import re

import msgspec
from msgspec import Raw

from gateway.wire.conversation import (
    Audio,
    Block,
    Document,
    Image,
    Opaque,
    Signature,
    Text,
    Thinking,
    ToolCall,
)
from gateway.wire.signatures import Kind, opened, sealed

FORMAT = "gemini"

_SEALED = "Z3cu"  # base64 of the three bytes that `sealed` begins with
_URL_SAFE = str.maketrans("-_", "+/")
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "html": "text/html",
    "csv": "text/csv",
}
"""Media types by the ending of a URL's path. Not `mimetypes`: that reads files of the system."""

_URL = re.compile(
    r"https?://(?:[^/?#@]*@)?(?P<host>[^/?#@:]*)(?::\d*)?"
    r"(?:/[^?#]*\.(?P<ending>[A-Za-z0-9]+))?(?:[/?#]|\Z)",
    re.IGNORECASE,
)
_OWN_HOSTS = ("googleapis.com", "youtube.com", "youtu.be")


def read_signature(value: str | None) -> tuple[Signature, Kind] | None:
    """Whose signature a `thoughtSignature` is, and of what; None where there is none."""
    if not value:
        return None
    if value.startswith(_SEALED):
        spelled = value.translate(_URL_SAFE)
        try:
            plain = base64.b64decode(spelled + "=" * (-len(spelled) % 4), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            plain = ""
        if found := opened(plain):
            return found
    return Signature(FORMAT, value), "thinking"


def write_signature(signature: Signature, *, redacted: bool = False) -> str:
    """A `thoughtSignature`: Gemini's own as it came, any other sealed."""
    if signature.format == FORMAT:
        return signature.value
    plain = sealed(signature, "redacted" if redacted else "thinking")
    return base64.b64encode(plain.encode()).decode()


def text_block(text: str, signed: str | None, *, thought: bool) -> Text | Thinking:
    """A text part."""
    found = read_signature(signed)
    signature = found[0] if found else None
    if not thought:
        return Text(text, signature=signature)
    return Thinking(text, signature, redacted=found is not None and found[1] == "redacted")


def inline_block(media_type: str, data: str) -> Block | None:
    """Inline media; None for a kind that there is no block for (video)."""
    data = _plain_base64(data)
    kind = media_type.partition("/")[0]
    if kind == "image":
        return Image(media_type, data)
    if kind == "audio":
        return Audio(media_type, data)
    if kind == "video":
        return None
    if media_type == "text/plain" and (text := _plain(data)) is not None:
        return Document(text=text)
    return Document(media_type, data)


def _plain_base64(data: str) -> str:
    """Google's `bytes` come in either alphabet, padded or not; its own SDK sends the one for URLs,
    which others do not read.
    """
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


def linked_block(uri: str, media_type: str | None) -> Block | None:
    """Media by URL; None where only Google can fetch it, or for a kind without a block."""
    address = _URL.match(uri)
    if address is None:
        return None
    host = address["host"].lower()
    if any(host == own or host.endswith("." + own) for own in _OWN_HOSTS):
        return None
    kind = (media_type or _guessed(uri) or "").partition("/")[0]
    if kind == "image":
        return Image(media_type, url=uri)
    if kind in ("application", "text"):
        return Document(media_type, url=uri)
    return None


def _guessed(uri: str) -> str | None:
    address = _URL.match(uri)
    return _TYPES.get(address["ending"].lower()) if address and address["ending"] else None


def _plain(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def call_arguments(args: Raw) -> str:
    """A call's `args` as they are spelled; `{}` where there are none."""
    spelled = bytes(args)
    return spelled.decode("utf-8", "replace") if spelled and spelled != b"null" else "{}"


def is_object(arguments: str) -> bool:
    """Tell whether arguments are one whole JSON object."""
    if arguments == "{}":
        return True
    try:
        _OBJECT.decode(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def may_take(document: bytes, name: str) -> bool:
    """Tell whether a JSON object has members, but none of this name."""
    try:
        members = _OBJECT.decode(document)
    except (msgspec.DecodeError, RecursionError):
        return False
    return bool(members) and name not in members


def spliced(arguments: str) -> Raw:
    """Arguments as JSON for a body, number text and key order kept. They must be an object."""
    return Raw(arguments.encode()) if arguments.strip() else Raw(b"{}")


def call_part(block: ToolCall) -> dict[str, object]:
    """A functionCall part. The arguments must be an object, or nothing at all."""
    call: dict[str, object] = {"id": block.id} if block.id else {}
    call |= {"name": block.name, "args": spliced(block.arguments)}
    part: dict[str, object] = {"functionCall": call}
    if block.signature is not None:
        part["thoughtSignature"] = write_signature(block.signature)
    return part


def text_part(block: Text | Thinking) -> dict[str, object]:
    """A text part, a thought where it is one."""
    part: dict[str, object] = {"text": block.text}
    redacted = False
    if isinstance(block, Thinking):
        part["thought"] = True
        redacted = block.redacted
    if block.signature is not None:
        part["thoughtSignature"] = write_signature(block.signature, redacted=redacted)
    return part


def media_part(block: Image | Document | Audio) -> dict[str, object] | None:
    """An inlineData or fileData part; None where inline media lack the type that they need."""
    if isinstance(block, Document) and block.text is not None:
        data = base64.b64encode(block.text.encode()).decode()
        return {"inlineData": {"mimeType": "text/plain", "data": data}}
    if block.data is not None:
        if block.media_type is None:
            return None
        return {"inlineData": {"mimeType": block.media_type, "data": block.data}}
    if isinstance(block, Audio) or block.url is None:
        return None
    media_type = block.media_type or _guessed(block.url)
    named = {"mimeType": media_type} if media_type else {}
    return {"fileData": {"fileUri": block.url, **named}}


def opaque_part(block: Opaque) -> Raw | None:
    """A part that only Gemini knows, as it came; None for another format's."""
    return Raw(block.json) if block.format == FORMAT else None

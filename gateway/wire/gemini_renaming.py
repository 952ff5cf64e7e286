"""The model's name inside Gemini's bodies: embeddings and counts say it beside the path's.

Google refuses a body whose `model` is not the path's, so an alias has to be replaced in both
places; clients write in the body what they were told to call. Pure. Source: ai.google.dev API
reference, "models.batchEmbedContents", "models.countTokens" (November 2026). Used by the sender.
"""

import msgspec
from msgspec import Raw

from gateway.wire import lenient
from gateway.wire.envelope import Envelope

_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_LIST = msgspec.json.Decoder(list[Raw])
_WRAPPED = ("generateContentRequest", "generate_content_request")


def renamed(body: bytes, seen: Envelope, model: str) -> bytes:
    """`body` with another model wherever it says one; the very object where it says none.

    All other values keep their bytes. What has not the shape that it should have stays as it is.
    """
    name = Raw(msgspec.json.encode(f"models/{model}"))
    fields = _named(seen.fields, name)
    for key in _WRAPPED:
        if key in fields:
            fields[key] = _inside(fields[key], name)
    if "requests" in fields:
        requests = lenient.decode(_LIST, fields["requests"])
        if requests is not None:
            each = [_inside(one, name) for one in requests]
            if each != requests:
                fields["requests"] = Raw(msgspec.json.encode(each))
    return body if fields == seen.fields else msgspec.json.encode(fields)


def _inside(raw: Raw, name: Raw) -> Raw:
    fields = lenient.decode(_FIELDS, raw)
    if fields is None or "model" not in fields:
        return raw
    return Raw(msgspec.json.encode(_named(fields, name)))


def _named(fields: dict[str, Raw], name: Raw) -> dict[str, Raw]:
    return {**fields, "model": name} if "model" in fields else dict(fields)

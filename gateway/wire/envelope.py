"""The envelope of a request: the few top-level fields of its body that the gateway reads or sets.

`peek` reads them without decoding the rest, `rewrite` splices new values in and leaves every other
byte as it came: spacing, number spelling, key order. What two JSON readers could understand
differently is refused, since the gateway would price one request and the provider run another:
keys said twice, half surrogate pairs, invalid UTF-8, NaN.

Measured (Python 3.11, one busy core): peek of a compact body 2.4 µs at 1 KB and 34 µs at 108 KB,
of which msgspec's own scan is 0.6 and 29; with Python's default spacing 4.4 and 49; a non-ASCII
body pays 50 µs per 100 KB for the UTF-8 check. rewrite: 3 µs at 1 KB, 15 µs at 108 KB.
"""

import re

import msgspec

from gateway.errors import GatewayError

MAX_TOKENS_MAX = 2**31 - 1
MODEL_CACHE_MAX = 1024
_MODEL_CACHED_BYTES_MAX = 200

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_KEY = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_NEXT = re.compile(rb"[ \t\n\r]*[,}]")
_SPACE = b" \t\n\r"

_Fields = dict[str, msgspec.Raw]

# What the raw bytes of a model were decoded to; bounded, as callers choose the bytes.
_models: dict[bytes, str] = {}

MAX_TOKENS_KEYS: dict[str, tuple[str, ...]] = {
    "openai_chat": ("max_completion_tokens", "max_tokens"),
    "openai_completions": ("max_tokens",),
    "openai_responses": ("max_output_tokens",),
    "anthropic_messages": ("max_tokens",),
}


class Envelope(msgspec.Struct, frozen=True):
    """What `peek` read. A field that is absent or null is None (False for the two flags).

    `fields` and `gap` are for `rewrite`: every top-level value as its bytes, and how many spaces
    follow each colon and comma between members (0 or 1; None: anything else).
    """

    model: str | None
    stream: bool
    max_output_tokens: int | None
    include_usage: bool
    store: bool | None
    previous_response_id: str | None
    fields: _Fields
    gap: int | None


def peek(body: bytes, format: str) -> Envelope:
    """Read the envelope of `body`, a request in `format` (a name of `registry.FORMATS`).

    Gemini names model and stream in its URL, so neither is looked for there. `native` bodies are
    of unknown shape: their model and stream are taken where they have the usual types. Raises
    GatewayError `invalid_request`, with the field as `param` where one is at fault.
    """
    fields, gap = _members(body)
    raw = fields.get
    model: str | None = None
    stream: bool | None = None
    if format == "native":
        model, stream = _native(fields)
    elif not format.startswith("gemini"):
        model = _model(raw("model"))
        stream = _flag(raw("stream"), "stream")
    responses = format == "openai_responses"
    return Envelope(
        model,
        stream or False,
        _max_tokens(fields, format),
        format == "openai_chat" and "stream_options" in fields and _includes(raw("stream_options")),
        _flag(raw("store"), "store") if responses else None,
        _text(raw("previous_response_id"), "previous_response_id") if responses else None,
        fields,
        gap,
    )


def rewrite(
    body: bytes,
    envelope: Envelope,
    *,
    model: str | None = None,
    include_usage: bool = False,
    max_output_tokens: int | None = None,
    max_tokens_key: str | None = None,
) -> bytes:
    """Return `body` with another model, `stream_options.include_usage` set, output limited.

    `envelope` is what `peek(body)` returned. `max_output_tokens` is set under `max_tokens_key`, or
    for None in Gemini's generation config. Only the named values change, every other byte stays;
    `body` itself is returned where there is nothing to change.
    """
    sets: list[tuple[str, bytes]] = []
    if model is not None and model != envelope.model:
        sets.append(("model", msgspec.json.encode(model)))
    if include_usage and not envelope.include_usage:
        sets.append(("stream_options", _asking(envelope.fields.get("stream_options"))))
    if max_output_tokens is not None:
        limit = b"%d" % max_output_tokens
        if max_tokens_key is None:
            sets.append(_limiting(envelope.fields, limit))
        else:
            sets.append((max_tokens_key, limit))
    return _splice(body, envelope.fields, sets, envelope.gap) if sets else body


def _refuse(message: str, param: str | None = None) -> GatewayError:
    return GatewayError("invalid_request", message, param=param)


def _members(body: bytes, param: str | None = None) -> tuple[_Fields, int | None]:
    """Split an object into its members; tell its spacing as `Envelope.gap` does.

    No member is said twice. In a body without spacing arithmetic proves it: the members found add
    up to the whole body, and a hidden second one would need bytes too. With the default spacing of
    Python's encoder the members are joined again and compared. Any other body is walked over.
    """
    what = param or "The request body"
    try:
        fields = _OBJECT.decode(body)
        if not body.isascii():
            body.decode()
    except msgspec.ValidationError:
        raise _refuse(f"{what} must be a JSON object.", param) from None
    except msgspec.DecodeError as exc:
        raise _refuse(f"{what} is not valid JSON: {exc}", param) from None
    except UnicodeDecodeError as exc:
        raise _refuse(f"{what} is not valid UTF-8 at byte {exc.start}.", param) from None
    except RecursionError:
        raise _refuse(f"{what} is nested too deep.", param) from None
    size = 1
    for key, raw in fields.items():
        size += len(key) + 4 + len(raw)
    if size == len(body) and fields:
        return fields, 0
    if size + 2 * len(fields) - 1 == len(body) and _spaced(body, fields):
        return fields, 1
    _walk(body, fields, param)
    return fields, None


def _spaced(body: bytes, fields: _Fields) -> bool:
    """Tell whether `body` is `{"k": v, "k2": v2}` of exactly these members."""
    keys = "".join(fields)
    if '"' in keys or "\\" in keys:
        return False
    members = [b'"%b": %b' % (key.encode(), raw) for key, raw in fields.items()]
    return b"{" + b", ".join(members) + b"}" == body


def _walk(body: bytes, fields: _Fields, param: str | None = None) -> dict[str, int]:
    """Return where each value begins, going from member to member.

    A JSON value is told from its own bytes, so where the bytes at a member's place are those of
    the value decoded for its key, they are that value. Where they are not, the decoder saw a
    later one: the key is said twice.
    """
    offsets: dict[str, int] = {}
    at = body.index(b"{") + 1
    while len(offsets) < len(fields):
        match = _KEY.match(body, at)
        if match is None:
            raise _refuse(f"{param or 'The request body'} could not be read.", param)
        key = _TEXT.decode(match[1]) if b"\\" in match[1] else match[1][1:-1].decode()
        at = match.end()
        value = bytes(fields[key])
        if key in offsets or not body.startswith(value, at):
            raise _twice(key, param)
        offsets[key] = at
        after = _NEXT.match(body, at + len(value))
        if after is None:
            raise _twice(key, param)
        at = after.end()
    if body[at:].strip(_SPACE) and fields:
        # More members, though every key has been seen.
        match = _KEY.match(body, at)
        raise _twice(_TEXT.decode(match[1]) if match else "", param)
    return offsets


def _twice(key: str, param: str | None) -> GatewayError:
    name = f"{param}.{key}" if param else key
    return _refuse(f"Duplicate key in the request body: {name}", name)


def _model(raw: msgspec.Raw | None) -> str | None:
    if raw is None:
        return None
    spelled = bytes(raw)
    model = _models.get(spelled)
    if model is None:
        if spelled == b"null":
            return None
        if not spelled.startswith(b'"'):
            raise _refuse("model must be a string.", "model")
        model = _TEXT.decode(spelled)
        if len(spelled) <= _MODEL_CACHED_BYTES_MAX:
            if len(_models) >= MODEL_CACHE_MAX:
                _models.clear()
            _models[spelled] = model
    return model


def _flag(raw: msgspec.Raw | None, param: str) -> bool | None:
    if raw is None:
        return None
    spelled = bytes(raw)
    if spelled == b"true":
        return True
    if spelled == b"false":
        return False
    if spelled == b"null":
        return None
    raise _refuse(f"{param} must be true or false.", param)


def _text(raw: msgspec.Raw | None, param: str) -> str | None:
    if raw is None or bytes(raw) == b"null":
        return None
    if memoryview(raw)[0] != 0x22:
        raise _refuse(f"{param} must be a string.", param)
    return _TEXT.decode(raw)


def _native(fields: _Fields) -> tuple[str | None, bool | None]:
    model, stream = fields.get("model"), fields.get("stream")
    spelled = bytes(model) if model is not None else b""
    return (
        _TEXT.decode(spelled) if spelled.startswith(b'"') else None,
        stream is not None and bytes(stream) == b"true",
    )


def _max_tokens(fields: _Fields, format: str) -> int | None:
    """Read the limit on output tokens; the larger where chat says both of its keys."""
    if format == "gemini":
        return _gemini_max_tokens(fields)
    largest: int | None = None
    for key in MAX_TOKENS_KEYS.get(format, ()):
        value = _positive(fields.get(key), key)
        if value is not None and (largest is None or value > largest):
            largest = value
    return largest


def _gemini_max_tokens(fields: _Fields) -> int | None:
    # Google's JSON reader takes snake case for camel case.
    largest: int | None = None
    for outer, inner in _GEMINI_MAX_TOKENS:
        raw = fields.get(outer)
        if raw is None or bytes(raw) == b"null":
            continue
        config, _ = _members(bytes(raw), outer)
        for key in inner:
            value = _positive(config.get(key), f"{outer}.{key}")
            if value is not None and (largest is None or value > largest):
                largest = value
    return largest


_GEMINI_MAX_TOKENS = (
    ("generationConfig", ("maxOutputTokens", "max_output_tokens")),
    ("generation_config", ("maxOutputTokens", "max_output_tokens")),
)


def _positive(raw: msgspec.Raw | None, param: str) -> int | None:
    if raw is None:
        return None
    spelled = bytes(raw)
    if spelled == b"null":
        return None
    value = int(spelled) if len(spelled) <= 10 and spelled.isdigit() else 0
    if not 0 < value <= MAX_TOKENS_MAX:
        raise _refuse(f"{param} must be a whole number from 1 to {MAX_TOKENS_MAX}.", param)
    return value


def _includes(raw: msgspec.Raw | None) -> bool:
    if raw is None or bytes(raw) == b"null":
        return False
    options, _ = _members(bytes(raw), "stream_options")
    return _flag(options.get("include_usage"), "stream_options.include_usage") or False


def _asking(raw: msgspec.Raw | None) -> bytes:
    """Return `stream_options` with include_usage set, its other bytes as they were."""
    if raw is None or bytes(raw) == b"null":
        return b'{"include_usage":true}'
    options = bytes(raw)
    fields, gap = _members(options, "stream_options")
    return _splice(options, fields, [("include_usage", b"true")], gap)


def _limiting(fields: _Fields, limit: bytes) -> tuple[str, bytes]:
    """Return Gemini's generation config with a limit on output, in the spelling that is there."""
    for outer, inner in _GEMINI_MAX_TOKENS:
        raw = fields.get(outer)
        if raw is not None and bytes(raw) != b"null":
            config = bytes(raw)
            members, gap = _members(config, outer)
            key = next((one for one in inner if one in members), inner[0])
            return outer, _splice(config, members, [(key, limit)], gap)
    outer = "generation_config" if "generation_config" in fields else "generationConfig"
    return outer, b'{"maxOutputTokens":%b}' % limit


def _splice(body: bytes, fields: _Fields, sets: list[tuple[str, bytes]], gap: int | None) -> bytes:
    """Replace the values of the keys that are there, add the others before the closing brace."""
    offsets = _walk(body, fields) if gap is None else _offsets(fields, gap)
    end = body.rindex(b"}")
    added = b",".join(msgspec.json.encode(k) + b":" + v for k, v in sets if k not in fields)
    edits = [(offsets[key], len(fields[key]), value) for key, value in sets if key in fields]
    if added:
        edits.append((end, 0, b"," + added if fields else added))
    out = body
    for start, size, value in sorted(edits, reverse=True):
        out = out[:start] + value + out[start + size :]
    return out


def _offsets(fields: _Fields, gap: int) -> dict[str, int]:
    offsets = {}
    at = 1
    for key, raw in fields.items():
        at += len(key.encode()) + 3 + gap
        offsets[key] = at
        at += len(raw) + 1 + gap
    return offsets

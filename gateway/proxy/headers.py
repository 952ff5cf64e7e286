"""What of a header section goes on, in both directions. Pure.

Inbound: one pass takes out every credential slot, hop-by-hop fields (RFC 9110 §7.6.1), cookies
and what the gateway sets itself; the rest goes to the upstream as it came. Outbound: the same for
the answer, where the upstream's request id keeps a name of its own. Used by the handler and the
exchange.
"""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_plus

import msgspec

from gateway.config import Family

Raw = Sequence[tuple[bytes, bytes]]

_DROP, _CREDENTIAL, _NOTE, _CONNECTION, _TENANT = range(5)

_INBOUND: dict[bytes, int] = {
    **dict.fromkeys(
        (
            b"keep-alive",
            b"proxy-authenticate",
            b"proxy-authorization",
            b"proxy-connection",
            b"te",
            b"trailer",
            b"upgrade",
            b"http2-settings",
            b"host",
            b"cookie",
            b"cookie2",
            b"accept-encoding",
            b"forwarded",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"x-forwarded-port",
            b"x-forwarded-prefix",
            b"x-real-ip",
            b"via",
        ),
        _DROP,
    ),
    **dict.fromkeys((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"), _CREDENTIAL),
    **dict.fromkeys(
        (
            b"content-length",
            b"transfer-encoding",
            b"content-encoding",
            b"content-type",
            b"expect",
            b"origin",
            b"anthropic-version",
            b"user-agent",
        ),
        _NOTE,
    ),
    b"connection": _CONNECTION,
    # A caller's own organisation at the provider means nothing with the operator's key.
    b"openai-organization": _TENANT,
    b"openai-project": _TENANT,
    b"x-goog-user-project": _TENANT,
}
_FORWARDED_NOTES = frozenset((b"content-type", b"anthropic-version", b"origin", b"user-agent"))

_TYPE, _LENGTH, _REQUEST_ID, _ENCODING = range(5, 9)

_OUTBOUND: dict[bytes, int] = {
    **dict.fromkeys(
        (
            b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te",
            b"trailer", b"transfer-encoding", b"upgrade", b"set-cookie", b"set-cookie2",
            b"strict-transport-security", b"alt-svc", b"access-control-allow-origin",
            b"access-control-expose-headers", b"access-control-allow-credentials", b"nel",
            b"report-to",
        ),
        _DROP,
    ),
    b"connection": _CONNECTION,
    b"content-type": _TYPE,
    b"content-length": _LENGTH,
    b"content-encoding": _ENCODING,
    b"x-request-id": _REQUEST_ID,
    b"request-id": _REQUEST_ID,
}  # fmt: skip
_OUTBOUND_LIMITED = _OUTBOUND | dict.fromkeys(
    (
        b"x-ratelimit-limit-requests", b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-requests", b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-requests", b"x-ratelimit-reset-tokens",
    ),
    _DROP,
)  # fmt: skip
"""With the usual rate limits by name; `_goes_on` knows the others by how they begin."""
_NOTHING_LISTED = frozenset((b"", b", keep-alive", b", close"))
_RATE_LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit")
"""How the fields begin that tell of the rate limits of whoever's key was used."""
REDACTED = b"[redacted]"
SECRET_BYTES_MIN = 16
"""A shorter key is a placeholder ("none", "ollama"), which may be any word of an answer."""
UPSTREAM_ID_HEADER = b"X-Upstream-Request-Id"

_SLOTS = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
_KEY_PARAMETER = re.compile(r"(?:^|(?<=&))key=([^&]*)(?:&|$)")


class Inbound(msgspec.Struct):
    r"""A client's header section, read once.

    `forward` is ready for the upstream (`Name: value\r\n`…); `credentials` are the slots that
    were filled (lower-case name -> value, `Bearer ` removed); `notes` the fields that the gateway
    acts on; `tenant` those that only go on with the caller's own key.
    """

    forward: bytes
    credentials: dict[bytes, bytes]
    notes: dict[bytes, bytes]
    tenant: bytes


def read(raw: Raw) -> Inbound:
    """Sort a raw header section; linear, one pass."""
    forward: list[bytes] = []
    credentials: dict[bytes, bytes] = {}
    notes: dict[bytes, bytes] = {}
    tenant = b""
    listed: bytes | None = None
    for name, value in raw:
        lower = name.lower()
        what = _INBOUND.get(lower)
        if what is None:
            forward.append(b"%b: %b\r\n" % (name, value))
        elif what == _CREDENTIAL:
            if lower not in credentials:
                credentials[lower] = _bearer(value) if lower == b"authorization" else value.strip()
        elif what == _NOTE:
            notes[lower] = value
            if lower in _FORWARDED_NOTES:
                forward.append(b"%b: %b\r\n" % (name, value))
        elif what == _CONNECTION:
            listed = value.lower() if listed is None else b"%b,%b" % (listed, value.lower())
        elif what == _TENANT:
            tenant += b"%b: %b\r\n" % (name, value)
    if listed is not None and listed not in (b"keep-alive", b"close"):
        names = {token.strip() for token in listed.split(b",")}
        forward = [line for line in forward if line.partition(b":")[0].lower() not in names]
    return Inbound(b"".join(forward), credentials, notes, tenant)


def spoken(inbound: Inbound) -> Family | None:
    """The API family that a caller's own header fields give away; None where they do not.

    Anthropic's clients always send their version. Google's send their key in a slot of its own;
    `google-genai` asks at `/v1` since its version 3, where paths alone would read as OpenAI's.
    """
    if b"anthropic-version" in inbound.notes:
        return "anthropic"
    return "gemini" if b"x-goog-api-key" in inbound.credentials else None


def _bearer(value: bytes) -> bytes:
    scheme, _, rest = value.strip().partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else b""


def take_key(query: str) -> tuple[str, bytes | None]:
    """Take the `key` parameter out of a query: (the query without it, its value or None)."""
    if "key=" not in query:
        return query, None
    match = _KEY_PARAMETER.search(query)
    if match is None:
        return query, None
    rest = _KEY_PARAMETER.sub("", query).rstrip("&")
    return rest, unquote_plus(match[1]).encode("utf-8", "surrogateescape")


def choose(credentials: dict[bytes, bytes], prefix: bytes) -> tuple[bytes, bytes] | None:
    """The slot and credential that count: a gateway key wherever it sits, else the first slot."""
    first: tuple[bytes, bytes] | None = None
    for slot, value in credentials.items():
        if not value:
            continue
        if value.startswith(prefix):
            return slot, value
        if first is None:
            first = (slot, value)
    return first


def provider_credential(family: Family, key: bytes) -> bytes:
    """The header line that carries a provider key of ours."""
    if family == "anthropic":
        return b"x-api-key: %b\r\n" % key
    if family == "gemini":
        return b"x-goog-api-key: %b\r\n" % key
    return b"Authorization: Bearer %b\r\n" % key


def caller_credential(family: Family, slot: bytes, value: bytes) -> bytes:
    """The header line that carries a caller's own key.

    It stays in the slot it came in where the provider reads that slot (an Anthropic OAuth token
    is only valid as Bearer, an Azure key as `api-key`), else moves to the family's own. A
    `?key=` never goes on as a parameter: URLs end up in logs.
    """
    if slot == b"authorization" and not (family == "gemini" and value.startswith(b"AIza")):
        return b"Authorization: Bearer %b\r\n" % value
    if family == "openai" and slot == b"api-key":
        return b"api-key: %b\r\n" % value
    return provider_credential(family, value)


class Answer:
    """An upstream's header section, sorted: what goes on (`lines`), and what is acted on."""

    __slots__ = ("content_encoding", "content_length", "content_type", "lines", "request_id")

    def __init__(self) -> None:
        self.lines = b""
        self.content_type = b""
        self.content_encoding: bytes | None = None
        self.content_length: bytes | None = None
        self.request_id: bytes | None = None


PLAIN_LINES_MAX = 1024
PLAIN_LINE_BYTES_MAX = 80
_plain: set[bytes] = set()
"""Lines known to go on as they are, whoever asked: upstreams say most of theirs in every answer.
Bounded, as some change every time; what is in it decides nothing but speed."""


def answer(lines: list[bytes], secret: bytes, *, limited: bool = False) -> Answer:
    """Sort an answer's head (status line first); the lines that go on stay as they came.

    `secret` is the provider key in use: a header that holds it (a redirect, an echo) is dropped.
    Where the caller is `limited` by the gateway, the upstream's own rate limits are left out: they
    tell of the operator's account, and the gateway says the caller's.
    """
    found = Answer()
    outbound = _OUTBOUND_LIMITED if limited else _OUTBOUND
    out: list[bytes] = []
    listed = b""
    for line in lines:
        if line in _plain:
            out.append(line)
            continue
        colon = line.find(b":")
        name = line[:colon].lower()
        what = outbound.get(name)
        if what is None:
            if _goes_on(line, name, limited=limited):
                out.append(line)
        elif what == _TYPE:
            found.content_type = line[colon + 1 :].partition(b";")[0].strip().lower()
            out.append(line)
        elif what == _LENGTH:
            found.content_length = line[colon + 1 :].strip()
        elif what == _REQUEST_ID:
            found.request_id = line[colon + 1 :].strip()
            out.append(UPSTREAM_ID_HEADER + line[colon:])
        elif what == _ENCODING:
            found.content_encoding = line[colon + 1 :].strip()
            out.append(line)
        elif what == _CONNECTION:
            listed += b"," + line[colon + 1 :].lower()
    out[0] = b""  # the status line
    out.append(b"")
    found.lines = _joined(out, listed, secret)
    return found


def _goes_on(line: bytes, name: bytes, *, limited: bool) -> bool:
    """Whether a line without a rule of its own goes on; it is remembered if it always does."""
    if name.startswith(_RATE_LIMITS):
        return not limited
    if len(_plain) < PLAIN_LINES_MAX and len(line) < PLAIN_LINE_BYTES_MAX:
        _plain.add(line)
    return True


def _joined(lines: list[bytes], listed: bytes, secret: bytes) -> bytes:
    """The lines as bytes, less what a Connection field lists and what holds the secret."""
    if listed not in _NOTHING_LISTED:
        lines = _unlisted(lines, listed)
    joined = b"\r\n".join(lines)
    if (secret and secret in joined) or b"\n " in joined or b"\n\t" in joined:
        # A folded line (RFC 9112 §5.2) could be the rest of one that was dropped.
        kept = [line for line in lines if not (secret and secret in line)]
        joined = b"\r\n".join([line for line in kept if line[:1] not in (b" ", b"\t")])
    return joined[2:]


def _unlisted(lines: list[bytes], listed: bytes) -> list[bytes]:
    """The lines without those that a Connection field lists: they are for one hop alone."""
    names = {name for token in listed.split(b",") if (name := token.strip())}
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def retry_lines(lines: bytes) -> bytes:
    """Of ready header lines those that say when to come back (`retry-after`, `retry-after-ms`)."""
    kept = [line for line in lines.split(b"\r\n") if line[:11].lower() == b"retry-after"]
    return b"".join(b"%b\r\n" % line for line in kept)


def find(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a field; names are in lower case."""
    for have, value in headers:
        if have == name:
            return value
    return None

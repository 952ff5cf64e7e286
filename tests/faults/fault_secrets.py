"""Canaries: secrets that are known to the test alone, and the search for any part of them.

A canary is looked for by windows of twelve characters, so that a secret cut short is found too,
and in base64 (as `Authorization: Basic` has it) and hexadecimal. Servers that are told secrets and
quote them in everything they say stand here as well: a provider, a mail server, a webhook.
"""

import asyncio
import base64
import binascii
import contextlib
import random
import re
import ssl
import string
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import trustme
from harness import Call, chunk, reply

WINDOW = 12
RANDOM_CHARS = 24
_WORD = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_ALPHABET = string.ascii_letters + string.digits


class Canaries:
    """All secrets of a test, by name."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.known: dict[str, str] = {}
        self._traces: dict[str, tuple[bytes, ...]] = {}
        self._raw: dict[str, tuple[bytes, ...]] = {}

    def make(self, name: str, shape: str = "{}") -> str:
        """A new secret; `shape` holds the place of its random part."""
        text = shape.format("".join(self._rng.choices(_ALPHABET, k=RANDOM_CHARS)))
        return self.add(name, text)

    def add(self, name: str, text: str, *, shown: int = 0) -> str:
        """Know a secret from elsewhere; its first `shown` characters are no secret."""
        assert name not in self.known
        self.known[name] = text
        self._traces[name] = tuple(_traces(text[shown:].encode()))
        return text

    def add_bytes(self, name: str, secret: bytes) -> None:
        """Know a secret that is no text."""
        self.known[name] = secret.hex()
        starts = range(0, len(secret) - WINDOW + 1, 4)
        self._raw[name] = tuple(secret[at : at + WINDOW] for at in starts)
        self._traces[name] = (*_traces(secret.hex().encode()), *_encoded(secret))

    def found_in(self, blob: bytes) -> set[str]:
        """The names of those of which there is a trace in there."""
        # Each long word once: what is searched is mostly the same words again and again.
        words = b"\n".join(set(_WORD.findall(blob)))
        return {
            name
            for where, known in ((words, self._traces), (blob, self._raw))
            for name, traces in known.items()
            if any(trace in where for trace in traces)
        }


def _traces(text: bytes) -> Iterable[bytes]:
    assert len(text) >= WINDOW, text
    starts = {*range(0, len(text) - WINDOW + 1, 6), len(text) - WINDOW}
    for at in sorted(starts):
        yield text[at : at + WINDOW]
    yield from _encoded(text)


def _encoded(secret: bytes) -> Iterable[bytes]:
    """In base64 wherever it begins in what is encoded, and in hexadecimal."""
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + secret).rstrip(b"=")
        # The characters at either end depend on what stands beside it, too.
        yield whole[4 : 4 + 16]
        yield whole[4 : 4 + 16].translate(bytes.maketrans(b"+/", b"-_"))
    yield binascii.hexlify(secret[:WINDOW])


# --- a provider that quotes what it is sent ---------------------------------------------------

STATUSES = (400, 401, 403, 404, 429, 500, 503)
MODES = (
    "fine", *(f"status{status}" for status in STATUSES), "fields", "redirect", "stream", "event",
    "opens", "tail", "cut", "halved", "garbage", "nojson", "silent",
)  # fmt: skip
"""How the provider misbehaves; the first word of its path."""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}'


def quoting(call: Call) -> bytes:
    """All that it was sent in header fields, fit to stand in a JSON text."""
    fields = b"; ".join(b"%b: %b" % field for field in call.fields)
    return fields.replace(b"\\", b"").replace(b'"', b"'")


def _event(content: bytes) -> bytes:
    return chunk(b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % content)


async def quoting_provider(call: Call) -> None:
    """Answer as the first word of the path says, and quote the request where that may be."""
    mode = call.target.split("/")[1]
    quoted = quoting(call)
    error = b'{"error":{"message":"Incorrect key. You sent: %b","code":"no"}}' % quoted
    if mode.startswith("status"):
        status = int(mode.removeprefix("status"))
        fields = [(b"Retry-After", b"1"), (b"X-Why", quoted), (b"WWW-Authenticate", quoted)]
        await call.send(reply(error, status=status, fields=fields))
    elif mode == "redirect":
        place = b"https://elsewhere.test/v1?" + quoted.replace(b" ", b"")
        await call.send(reply(b"", status=307, fields=[(b"Location", place)]))
    elif mode in _STREAMS:
        await call.send(STREAM, *_STREAMS[mode](error))
        if mode == "cut":
            call.close()
    elif mode == "halved":
        await call.send(reply(error)[:-30])
        call.close()
    elif mode == "garbage":
        await call.send(b"HTTP/9.9 " + quoted + b"\r\n\r\n")
        call.close()
    elif mode == "nojson":
        await call.send(reply(b"You sent: " + quoted))
    elif mode == "silent":
        await call.gone(30)
    else:
        await _fine(call, quoted, named=mode == "fields")


_STREAMS: dict[str, Callable[[bytes], tuple[bytes, ...]]] = {
    "stream": lambda error: (_event(b"Hello"), _event(b" you"), DONE),
    "event": lambda error: (_event(b"Hello"), chunk(b"data: " + error + b"\n\n"), DONE),
    "opens": lambda error: (chunk(b"data: " + error + b"\n\n"), DONE),
    # The error in two pieces, each of which holds only a part of what is quoted.
    "tail": lambda error: (
        _event(b"Hello"),
        chunk(b"data: " + error[: len(error) // 2]),
        chunk(error[len(error) // 2 :] + b"\n\n"),
        DONE,
    ),
    "cut": lambda error: (_event(b"Hello"), chunk(b"data: " + error[: len(error) // 2])),
}


async def _fine(call: Call, quoted: bytes, *, named: bool) -> None:
    fields = [(b"Set-Cookie", b"session=" + quoted[:200].replace(b";", b""))]
    if named:
        fields += [(b"X-Debug", quoted), (b"X-Request-Id", quoted), (b"Link", b"<" + quoted + b">")]
    body = b'{"id":"c","object":"chat.completion","model":"m","choices":[],' + USAGE + b"}"
    if "messages" in call.target:
        body = (
            b'{"id":"m","type":"message","content":[],"usage":{"input_tokens":7,"output_tokens":5}}'
        )
    elif "generateContent" in call.target:
        body = b'{"candidates":[],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":5}}'
    await call.send(reply(body, fields=fields))


# --- who alerts are sent to -------------------------------------------------------------------


class Told:
    """A mail server and a webhook: what they were told. They refuse with it, then take it."""

    def __init__(self) -> None:
        self.mail = bytearray()
        self.posts = bytearray()
        self.refusals = 2
        self.mail_port = 0
        self.hook_port = 0
        self.ca_file = ""
        self.taken = 0

    def _refuses(self) -> bool:
        self.refusals -= 1
        return self.refusals >= 0

    async def serve_mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """SMTP (RFC 5321) with AUTH PLAIN (RFC 4954), as much as a client needs."""
        writer.write(b"220 mail.test\r\n")
        data = False
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                self.mail += line
                verb = line[:4].upper()
                if data:
                    data = line != b".\r\n"
                    if not data:
                        self.taken += 1
                        writer.write(b"250 taken\r\n")
                elif verb == b"EHLO":
                    writer.write(b"250-mail.test\r\n250 AUTH PLAIN\r\n")
                elif verb == b"AUTH":
                    told = base64.b64decode(line.split()[2]).replace(b"\0", b" ")
                    self.mail += told
                    no = self._refuses()
                    writer.write(b"535 wrong: " + told + b"\r\n" if no else b"235 right\r\n")
                elif verb == b"DATA":
                    data = True
                    writer.write(b"354 go on\r\n")
                else:
                    writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
        writer.close()

    async def serve_hook(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.posts += head
            if self._refuses():
                quoted = head.split(b"\r\n")[0]
                writer.write(reply(quoted, status=307, fields=[(b"Location", b"/" + quoted)]))
            else:
                self.taken += 1
                writer.write(b"HTTP/1.1 204 Taken\r\n\r\n")
        writer.close()


@contextlib.asynccontextmanager
async def told_servers(directory: Path) -> AsyncIterator[Told]:
    """Run them on 127.0.0.1, mail over TLS."""
    told = Told()
    authority = trustme.CA()
    told.ca_file = str(directory / "authority.pem")
    authority.cert_pem.write_to_path(told.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    mail = await asyncio.start_server(told.serve_mail, "127.0.0.1", 0, ssl=context)
    hook = await asyncio.start_server(told.serve_hook, "127.0.0.1", 0)
    told.mail_port = mail.sockets[0].getsockname()[1]
    told.hook_port = hook.sockets[0].getsockname()[1]
    async with mail, hook:
        yield told

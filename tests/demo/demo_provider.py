"""A running demo upstream for the tests, called as a client and on a bare socket.

`provider()` serves one on a free port. The four chat formats are `FORMATS`: how each asks for an
answer to a text, and how its document and its stream are read back to what was said (with the
grammar checked on the way, see `demo_grammar.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import aiohttp
import demo_grammar
import msgspec
import orjson
from demo_grammar import Said

from gateway.demo.server import start

Ending = Literal["end", "reset", "silence"]

HEADERS = {
    "authorization": "Bearer any",
    "x-goog-api-key": "any",
    "anthropic-version": "2023-06-01",
}

# How long nothing has to come, once all has come, before a connection counts as silent.
SILENCE_S = 0.15

# How long a test waits for what has to come.
PATIENCE_S = 10.0


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class RawAnswer(msgspec.Struct):
    """Everything that came on a bare socket, and how it ended."""

    received: bytes
    ending: Ending

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0]

    @property
    def rest(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def chunked_body(self) -> bytes:
        """The body without its chunk framing, as far as it came."""
        rest, body = self.rest, b""
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body += rest[:length]
            rest = rest[length + 2 :]
        return body


class Provider:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.port = port

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answered:
        sent = {**HEADERS, **(headers or {})}
        url = f"http://127.0.0.1:{self.port}{path}"
        if body is not None:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            sent.setdefault("content-type", "application/json")
        async with self.session.request(
            method, url, data=data, headers=sent, allow_redirects=False
        ) as answer:
            read = await answer.read()
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answered(answer.status, found, read)

    async def post(self, path: str, body: Any, **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, body, headers=named)

    async def raw(
        self,
        path: str,
        body: Any,
        *,
        silent_once: Callable[["RawAnswer"], bool] | None = None,
        version: str = "1.1",
    ) -> RawAnswer:
        """Send a request on a bare socket and read until the connection ends.

        Where it is to stay open, `silent_once` tells from what came when nothing more has to come;
        the connection is then watched for a little longer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        text = orjson.dumps(body)
        lines = [
            f"POST {path} HTTP/{version}",
            "host: demo",
            "content-type: application/json",
            f"content-length: {len(text)}",
            *(f"{name}: {value}" for name, value in HEADERS.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + text)
        answer = RawAnswer(b"", "end")
        try:
            while True:
                quiet = silent_once is not None and silent_once(answer)
                async with asyncio.timeout(SILENCE_S if quiet else PATIENCE_S):
                    piece = await reader.read(65536)
                if not piece:
                    break
                answer.received += piece
        except TimeoutError:
            answer.ending = "silence"
        except ConnectionResetError:
            answer.ending = "reset"
        writer.close()
        return answer


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    runner, port = await start()
    try:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Provider(session, port)
    finally:
        await runner.cleanup()


class Format(msgspec.Struct, frozen=True):
    """How to ask one chat format for an answer, and to read it."""

    name: str
    path: Callable[[str, bool], str]
    body: Callable[[str, str, bool], dict[str, Any]]
    read_document: Callable[[Any], Said]
    read_stream: Callable[[bytes], Said]
    terminal: bytes

    def __str__(self) -> str:
        return self.name


def _chat(model: str, text: str, stream: bool) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return {**body, "stream_options": {"include_usage": True}} if stream else body


def _responses(model: str, text: str, stream: bool) -> dict[str, Any]:
    return {"model": model, "input": text, "stream": stream}


def _messages(model: str, text: str, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "max_tokens": 4000, "messages": messages, "stream": stream}


def _gemini(model: str, text: str, stream: bool) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


def _gemini_path(model: str, stream: bool) -> str:
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/gemini/v1beta/models/{model}:{verb}"


def _gemini_array_path(model: str, stream: bool) -> str:
    verb = "streamGenerateContent" if stream else "generateContent"
    return f"/gemini/v1beta/models/{model}:{verb}"


CHAT = Format(
    "openai_chat",
    lambda model, stream: "/v1/chat/completions",
    _chat,
    demo_grammar.read_chat_document,
    demo_grammar.read_chat_stream,
    b"data: [DONE]",
)
RESPONSES = Format(
    "openai_responses",
    lambda model, stream: "/v1/responses",
    _responses,
    demo_grammar.read_responses_document,
    demo_grammar.read_responses_stream,
    b"event: response.completed",
)
MESSAGES = Format(
    "anthropic_messages",
    lambda model, stream: "/anthropic/v1/messages",
    _messages,
    demo_grammar.read_messages_document,
    demo_grammar.read_messages_stream,
    b"event: message_stop",
)
GEMINI = Format(
    "gemini",
    _gemini_path,
    _gemini,
    demo_grammar.read_gemini_document,
    demo_grammar.read_gemini_stream,
    b'"finishReason"',
)
GEMINI_ARRAY = Format(
    "gemini_array",
    _gemini_array_path,
    _gemini,
    demo_grammar.read_gemini_document,
    demo_grammar.read_gemini_array,
    b'"finishReason"',
)

FORMATS = (CHAT, RESPONSES, MESSAGES, GEMINI, GEMINI_ARRAY)

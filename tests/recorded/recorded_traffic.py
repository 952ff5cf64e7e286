"""Recorded exchanges as the replay needs them: the call to make, and what must come of it."""

import base64
import gzip
import os
import random
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from harness import Fields, Framing, chunk

Mode = Literal["whole", "cuts", "bytes"]

PATHS = {
    "openai.chat": "/v1/chat/completions",
    "openai.responses": "/v1/responses",
    "openai.compact": "/v1/responses/compact",
    "openai.input_tokens": "/v1/responses/input_tokens",
    "openai.completions": "/v1/completions",
    "openai.embeddings": "/v1/embeddings",
    "openai.moderations": "/v1/moderations",
    "anthropic.messages": "/v1/messages",
    "anthropic.count_tokens": "/v1/messages/count_tokens",
}
GENERATING = {
    "openai.chat",
    "openai.responses",
    "openai.compact",
    "openai.completions",
    "anthropic.messages",
    "google.generate",
}
"""Endpoints whose missing usage is estimated from bytes; the embeddings ones from the input."""

USAGE = {
    "input": "input_tokens",
    "output": "output_tokens",
    "total": "total_tokens",
    "cached_input_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
    "cache_write_5m": "cache_write_5m",
    "cache_write_1h": "cache_write_1h",
    "reasoning": "reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "input_image": "input_image_tokens",
    "input_tool_use": "input_tool_use_tokens",
    "output_audio": "output_audio_tokens",
    "output_image": "output_image_tokens",
    "server_tool_requests": "server_tool_requests",
}
"""`expected_usage` of the records -> `usage` of a receipt."""

_NO_END = {"658f07f4a21d321c7d7b", "8cb65a91cc50939ffdfb", "4614c3ba1a94c7790737"}
"""Streams that tell no ending: two close with an error event, one is a vendor's own grammar."""


class Record(msgspec.Struct):
    id: str
    endpoint: str
    provider: str
    method: str
    path: str
    query: list[tuple[str, str]] | None
    model: str | None
    request_body: msgspec.Raw
    request_headers: dict[str, str] | None
    status: int
    response_headers: dict[str, str] | None
    response_body_text: str | None
    response_body_base64: str | None
    streamed: bool
    expected_usage: dict[str, Any] | None
    tags: list[str]

    @property
    def body(self) -> bytes:
        if self.response_body_text is not None:
            return self.response_body_text.encode()
        return base64.b64decode(self.response_body_base64 or "")

    @property
    def target(self) -> str:
        """Where a caller of the gateway sends this request."""
        if self.endpoint == "models":
            provider = self.provider if self.provider in ("anthropic", "google") else "openai"
            return f"/v1/{provider}/models{self._query}"
        if self.endpoint.startswith("google."):
            call = re.search(r"models/[^/:]+:\w+$", self.path)
            assert call is not None, self.path
            return f"/v1beta/{call[0]}{self._query}"
        return self.path if self.method == "GET" else PATHS[self.endpoint]

    @property
    def _query(self) -> str:
        pairs = [f"{name}={value}" for name, value in self.query or () if name != "key"]
        return "?" + "&".join(pairs) if pairs else ""

    @property
    def credential(self) -> tuple[bytes, bytes]:
        """A key of its own for each record, in the slot its format's clients use."""
        secret = f"own-{self.id}".encode()
        if self.target.startswith(("/v1/messages", "/v1/anthropic/")):
            return b"x-api-key", secret
        if self.target.startswith(("/v1beta/", "/v1/google/")):
            return b"x-goog-api-key", secret
        return b"Authorization", b"Bearer " + secret

    @property
    def request(self) -> bytes:
        """The recorded request body, or the least that makes sense where none was recorded."""
        found: Any = msgspec.json.decode(self.request_body)
        if self.method == "GET":
            return b""
        if isinstance(found, dict):
            if "model" not in found and not self.endpoint.startswith("google."):
                found["model"] = self.model or "some-model"  # other hosts have it in the URL
                return msgspec.json.encode(found)
            return bytes(self.request_body)
        if self.endpoint.startswith("google."):
            return b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'
        body: dict[str, Any] = {"model": self.model or "some-model"}
        if self.streamed:
            body["stream"] = True
        return msgspec.json.encode(body)

    @property
    def stripped(self) -> bool:
        """Whether the caller streams chat without asking for usage, so that the gateway asks."""
        if self.endpoint != "openai.chat" or self.method != "POST":
            return False
        asked: Any = msgspec.json.decode(self.request)
        options = asked.get("stream_options") or {}
        return asked.get("stream") is True and options.get("include_usage") is not True

    @property
    def expected_body(self) -> bytes:
        """What the client must get: the recorded bytes, less a usage chunk it did not ask for."""
        if not (self.stripped and self.streamed and self.status == 200):
            return self.body
        end = b"\r\n\r\n" if b"\r\n\r\n" in self.body else b"\n\n"
        return end.join(one for one in self.body.split(end) if not _only_usage(one))

    @property
    def fields(self) -> Fields:
        """The recorded headers of the answer, with a content type where none was kept."""
        kept = dict(self.response_headers or {})
        kept.setdefault(
            "content-type", "text/event-stream" if self.streamed else "application/json"
        )
        return [(name.encode(), value.encode("latin-1")) for name, value in kept.items()]

    @property
    def ends(self) -> bool:
        """Whether the answer tells its end, so that it counts as complete."""
        told = self.expected_usage is None or self.expected_usage["complete"]
        return told and self.id not in _NO_END

    @property
    def expected_source(self) -> str:
        """`usage.source` of the receipt, by the billing table."""
        if self.status >= 400:
            return "none"
        if self.expected_usage is not None:
            return "reported" if self.ends else "partial"
        if not self.ends:
            return "none"
        estimated = self.endpoint in GENERATING or self.endpoint == "google.embed"
        if self.endpoint == "openai.embeddings":
            estimated = self.method == "POST"
        return "estimated" if estimated and not self.target.endswith(":predict") else "none"


def _only_usage(event: bytes) -> bool:
    data = event.strip().removeprefix(b"data:").strip()
    if not data.startswith(b"{"):
        return False
    found = msgspec.json.decode(data)
    return found.get("choices") == [] and isinstance(found.get("usage"), dict)


def directory() -> Path:
    return Path(os.environ.get("GATEWAY_RECORDED_DIR", "../shared/recorded"))


@cache
def records() -> tuple[Record, ...]:
    if not directory().is_dir():
        pytest.skip("no recorded traffic: set GATEWAY_RECORDED_DIR to its directory")
    decoder = msgspec.json.Decoder(Record)
    return tuple(
        decoder.decode(line)
        for path in sorted(directory().glob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    )


def shown_usage(record: Record) -> dict[str, Any]:
    """The members of a receipt's `usage` that a record's `expected_usage` settles."""
    found = record.expected_usage
    assert found is not None
    usage: dict[str, Any] = {ours: found.get(theirs) for theirs, ours in USAGE.items()}
    if "completion_tokens_details" in found["raw"]:
        # The records list image output for Gemini alone; OpenAI's shape tells it too.
        usage["output_image_tokens"] = (found["raw"]["completion_tokens_details"] or {}).get(
            "image_tokens"
        )
    return usage


# --- how an answer travels --------------------------------------------------------------------


def framing(record: Record, mode: Mode) -> Framing:
    """One of the three, by the record and the mode, the same in every run."""
    return random.Random(f"{record.id}{mode}").choice(("length", "chunked", "close"))


def wire(record: Record, mode: Mode) -> tuple[bytes, bytes]:
    """The head and the framed body of the recorded answer."""
    body, chosen = record.body, framing(record, mode)
    lines = [b"%b: %b" % field for field in record.fields]
    if chosen == "length":
        lines.append(b"content-length: %d" % len(body))
    elif chosen == "chunked":
        lines.append(b"transfer-encoding: chunked")
        rng = random.Random(f"chunks{record.id}{mode}")
        offsets = [rng.randrange(len(body) + 1) for _ in range(rng.randrange(12))]
        body = b"".join(map(chunk, cut(body, offsets))) + b"0\r\n\r\n"
    else:
        lines.append(b"connection: close")
    head = b"HTTP/1.1 %d X\r\n%b\r\n\r\n" % (record.status, b"\r\n".join(lines))
    return head, body


def cut(data: bytes, offsets: list[int]) -> list[bytes]:
    ends = [*sorted({offset for offset in offsets if 0 < offset < len(data)}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def offsets(data: bytes, mode: Mode, seed: str, *, every_byte_max: int) -> list[int]:
    """Where to cut: nowhere, at random and around line ends, or at every byte (of windows)."""
    rng = random.Random(seed)
    ends = [match.start() for match in re.finditer(rb"[\r\n]", data)] or [0]
    if mode == "whole":
        return []
    if mode == "cuts":
        near = [rng.choice(ends) + rng.randint(-2, 3) for _ in range(12)]
        return [rng.randrange(len(data) + 1) for _ in range(8)] + near
    if len(data) <= every_byte_max:
        return list(range(1, len(data)))
    size = max(32, every_byte_max // 4)
    starts = (rng.randrange(len(data)), rng.choice(ends) - size // 2, len(data) - size)
    return [at for start in starts for at in range(start, start + size)]

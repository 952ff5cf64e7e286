"""Recorded provider traffic, read once: what the tests of the taps need of each record."""

import base64
import gzip
import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.wire import registry
from gateway.wire.format import StreamTap
from gateway.wire.neutral import Metered

FORMAT_OF = {
    "openai.chat": "openai_chat",
    "openai.responses": "openai_responses",
    "openai.compact": "openai_responses",
    "openai.completions": "openai_completions",
    "openai.embeddings": "openai_embeddings",
    "anthropic.messages": "anthropic_messages",
    "google.generate": "gemini",
    "google.embed": "gemini_embeddings",
}
"""Every other endpoint (models, moderations, token counting) is `native`."""


class Record(msgspec.Struct):
    id: str
    endpoint: str
    status: int
    streamed: bool
    request_body: msgspec.Raw
    expected_usage: dict[str, Any] | None
    expected_content: dict[str, Any] | None
    response_body_text: str | None
    response_body_base64: str | None
    tags: list[str]
    events: int | None = None

    @property
    def format(self) -> str:
        return FORMAT_OF.get(self.endpoint, "native")

    @property
    def body(self) -> bytes:
        if self.response_body_text is not None:
            return self.response_body_text.encode()
        return base64.b64decode(self.response_body_base64 or "")

    def tap(self, *, strip_usage: bool = False) -> StreamTap:
        json_array = "array_stream" in self.tags
        return registry.stream_tap(self.format, strip_usage=strip_usage, json_array=json_array)


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


def streams() -> list[Record]:
    return [one for one in records() if one.status == 200 and one.streamed]


def bodies() -> list[Record]:
    return [one for one in records() if one.status == 200 and not one.streamed]


def cut(body: bytes, offsets: list[int]) -> Iterator[bytes]:
    start = 0
    for end in [*sorted(offsets), len(body)]:
        yield body[start:end]
        start = end


def random_cuts(body: bytes, seed: str) -> list[int]:
    """Up to 60 offsets: anywhere, and crowded around the ends of events."""
    rng = random.Random(seed)
    anywhere = [rng.randrange(len(body) + 1) for _ in range(20)]
    ends = [at for at, byte in enumerate(body) if byte in b"\r\n"] or [0]
    near = [min(len(body), rng.choice(ends) + rng.randint(-2, 3)) for _ in range(40)]
    return anywhere + [max(0, at) for at in near]


def run(tap: StreamTap, pieces: Iterator[bytes]) -> tuple[bytes, Metered]:
    """Feed all, read what was metered before the end is released, then release."""
    out = b"".join(map(tap.feed, pieces))
    found = tap.metered()
    out += tap.release()
    assert tap.metered() == found
    return out, found

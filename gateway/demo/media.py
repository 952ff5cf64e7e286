"""OpenAI's images and sound: generation of a picture, speech, transcription.

The picture is one pixel, the speech a tone as long as its text, the transcript a sentence that
tells the size of what was sent: small, real files of their kinds. Called by `server.py`.
"""

import base64
import hashlib
import math
import struct
import zlib
from typing import Any

import orjson

from gateway.demo import tokens
from gateway.demo.multipart import Form
from gateway.demo.openai_chat import fault
from gateway.demo.openai_shapes import Body, get_string, get_whole, invalid_value, missing
from gateway.demo.reply import Reply, json_reply
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

IMAGE_OUTPUT_TOKENS = 272
SAMPLE_RATE_HZ = 8000
SPEECH_SECONDS_MAX = 2.0
SPEECH_CHUNK_BYTES = 2048


def create_image(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer `POST /v1/images/generations` with pictures as base64."""
    prompt = get_string(body, "prompt")
    if not prompt:
        raise missing("prompt")
    count = get_whole(body, "n", 1, 10) or 1
    pictures = [
        {"b64_json": base64.b64encode(_png(f"{prompt}#{n}")).decode()} for n in range(count)
    ]
    weight = tokens.count(prompt)
    made = IMAGE_OUTPUT_TOKENS * count
    document: dict[str, Any] = {"created": state.now(), "data": pictures}
    if not switches.nousage:
        document["usage"] = {
            "input_tokens": weight,
            "input_tokens_details": {"text_tokens": weight, "image_tokens": 0},
            "output_tokens": made,
            "total_tokens": weight + made,
        }
    return json_reply("openai", document)


def speak(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer `POST /v1/audio/speech` with a WAV file, sent as it is made."""
    text = get_string(body, "input")
    if not text:
        raise missing("input")
    if get_string(body, "voice") is None and not isinstance(body.get("voice"), dict):
        raise missing("voice")
    wave = _wav(min(len(text) * 0.05, SPEECH_SECONDS_MAX))
    starts = range(0, len(wave), SPEECH_CHUNK_BYTES)
    return Reply(
        content_type="audio/wav",
        events=[wave[start : start + SPEECH_CHUNK_BYTES] for start in starts],
    )


def transcribe(form: Form, switches: Switches) -> Reply:
    """Answer `POST /v1/audio/transcriptions`: JSON, text or events."""
    if "file" not in form.files:
        raise missing("file")
    sent = form.files["file"]
    text = f"A recording of {sent.size} bytes, as the demo hears it."
    kind = form.fields.get("response_format", "json")
    if kind not in ("json", "text", "verbose_json"):
        known = "'json', 'text' and 'verbose_json'"
        message = f"Invalid value: '{kind}'. Supported values are: {known}."
        raise invalid_value("response_format", message)
    heard, said = max(sent.size // 1000, 1), tokens.split(text)
    usage = {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": len(said),
        "total_tokens": heard + len(said),
    }
    reported = {} if switches.nousage else {"usage": usage}
    if form.fields.get("stream") == "true":
        deltas = [{"type": "transcript.text.delta", "delta": piece} for piece in said]
        events = [*deltas, {"type": "transcript.text.done", "text": text, **reported}]
        return Reply(
            content_type="text/event-stream; charset=utf-8",
            events=[b"data: " + orjson.dumps(event) + b"\n\n" for event in events],
            fault=fault,
        )
    if kind == "text":
        return Reply(body=f"{text}\n".encode(), content_type="text/plain; charset=utf-8")
    if kind == "verbose_json":
        words = {"task": "transcribe", "language": "english", "duration": 1.0, "segments": []}
        return json_reply("openai", {**words, "text": text, **reported})
    return json_reply("openai", {"text": text, **reported})


def _png(prompt: str) -> bytes:
    """A picture of one pixel, its colour drawn from the prompt."""
    colour = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=3).digest()
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" + colour)), (b"IEND", b""))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        checksum = zlib.crc32(kind + data)
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
    return b"".join(parts)


def _wav(seconds: float) -> bytes:
    """A quiet tone, 16 bits, one channel."""
    count = int(seconds * SAMPLE_RATE_HZ)
    turn = 2 * math.pi * 440 / SAMPLE_RATE_HZ
    samples = (int(3000 * math.sin(turn * index)) for index in range(count))
    data = struct.pack(f"<{count}h", *samples)
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 2, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body

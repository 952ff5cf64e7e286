"""Embeddings: the vectors, and OpenAI's `POST /v1/embeddings`.

A vector is drawn from the digest of its text: the same text always gets the same unit vector, and
different texts nearly orthogonal ones. Gemini's endpoints take their vectors from here.
"""

import base64
import hashlib
import math
import random
import struct
from typing import Any

from gateway.demo.openai_completions import read_prompts
from gateway.demo.openai_shapes import Body, get_whole, invalid_value, missing
from gateway.demo.reply import Reply, json_reply
from gateway.demo.state import DemoState
from gateway.demo.switches import Switches

DEFAULT_DIMENSIONS = 1536
DIMENSIONS_MAX = 4096
INPUTS_MAX = 2048


def vector(text: str, dimensions: int) -> list[float]:
    """The unit vector of a text. A shorter one is the head of the longer, normalised anew."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    values = [rng.gauss(0.0, 1.0) for _ in range(dimensions)]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


def create(state: DemoState, body: Body, switches: Switches) -> Reply:
    """Answer an embeddings request; `encoding_format` is float (default) or base64."""
    if body.get("input") is None:
        raise missing("input")
    if body["input"] in ("", []):
        raise invalid_value("input", "Invalid 'input': it must not be empty.")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        known = "'float' and 'base64'"
        message = f"Invalid value: '{encoding}'. Supported values are: {known}."
        raise invalid_value("encoding_format", message)
    inputs = read_prompts({"prompt": body["input"]})
    if len(inputs) > INPUTS_MAX:
        message = f"Invalid 'input': array too long. Expected at most {INPUTS_MAX} items."
        raise invalid_value("input", message, "array_above_max_length")
    dimensions = get_whole(body, "dimensions", 1, DIMENSIONS_MAX) or DEFAULT_DIMENSIONS
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(vector(text or "".join(pieces), dimensions), encoding),
        }
        for index, (text, pieces) in enumerate(inputs)
    ]
    weight = sum(len(pieces) for _, pieces in inputs)
    document: dict[str, Any] = {"object": "list", "data": data, "model": body["model"]}
    if not switches.nousage:
        document["usage"] = {"prompt_tokens": weight, "total_tokens": weight}
    return json_reply("openai", document)


def _encoded(values: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return values
    # Little-endian 32-bit floats: what the official clients ask for and decode.
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

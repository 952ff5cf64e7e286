"""Reading the content blocks of Anthropic Messages: their shapes, and what is in them.

Blocks are closed, as the real API's are: a member that it does not know is a 400, unless a beta is
asked for. Pictures are looked at (`images.py`); thoughts come back only with the demo's own
signature. Raises `Refusal` in the API's wording. Used by `anthropic_input.py`.

Source: platform.claude.com API reference, "Vision" and "Extended thinking" (November 2026), and
public reports of the messages.
"""

import re
from typing import Any

import msgspec
import orjson

from gateway.demo import images, tokens
from gateway.demo.answer import ToolResult
from gateway.demo.reply import Refusal
from gateway.demo.seals import is_sealed
from gateway.demo.tokens import Lifetime, Mark

IMAGE_TOKENS = 258
DOCUMENT_TOKENS = 500

Body = dict[str, Any]

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_ID = re.compile(r"[A-Za-z0-9_-]+")

_MEMBERS: dict[str, frozenset[str]] = {
    "text": frozenset(("type", "text", "cache_control", "citations")),
    "image": frozenset(("type", "source", "cache_control")),
    "document": frozenset(("type", "source", "cache_control", "citations", "context", "title")),
    "tool_use": frozenset(("type", "id", "name", "input", "cache_control", "caller")),
    "tool_result": frozenset(("type", "tool_use_id", "content", "is_error", "cache_control")),
    "thinking": frozenset(("type", "thinking", "signature")),
    "redacted_thinking": frozenset(("type", "data")),
}
_ONLY_IN: dict[str, str] = {
    "tool_use": "assistant", "thinking": "assistant", "redacted_thinking": "assistant",
    "tool_result": "user", "image": "user", "document": "user",
}  # fmt: skip
_SOURCES: dict[str, frozenset[str]] = {
    "base64": frozenset(("type", "media_type", "data")),
    "url": frozenset(("type", "url")),
    "file": frozenset(("type", "file_id")),
    "text": frozenset(("type", "media_type", "data")),
    "content": frozenset(("type", "content")),
}


class Prompt(msgspec.Struct):
    """The prompt gathered in the order the cache sees it: tools, system, messages.

    `results` and `seen` are of the last message; `recalls`: the assistant's last one had thoughts.
    `beta` lets unknown members through.
    """

    beta: bool = False
    pieces: list[str] = []
    marks: list[Mark] = []
    user_text: str = ""
    results: list[ToolResult] = []
    seen: list[str] = []
    recalls: bool = False
    call_names: dict[str, str] = {}

    def mark(self, holder: Body) -> None:
        """Note a cache point after what was added last, if `holder` carries one."""
        control = holder.get("cache_control")
        if isinstance(control, dict):
            lifetime: Lifetime = "1h" if control.get("ttl") == "1h" else "5m"
            self.marks.append(Mark(len(self.pieces), lifetime))


def fault(path: str, message: str) -> Refusal:
    """A 400 that names the field, as the API words it."""
    return Refusal(400, f"{path}: {message}")


def bare(holder: Body) -> Body:
    """A block without its cache point, which is no part of the prompt."""
    return {key: value for key, value in holder.items() if key != "cache_control"}


def blocks_of(content: Any, path: str) -> list[Body]:
    """A message's content as blocks, each with a type."""
    if content is None:
        raise fault(f"{path}.content", "Field required")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise fault(f"{path}.content", "Input should be a valid list")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise fault(f"{path}.content.{index}.type", "Field required")
    return content


def read_blocks(blocks: list[Body], path: str, role: str, prompt: Prompt) -> list[str]:
    """Check the blocks of one turn and add them to `prompt`; returns their texts."""
    texts = []
    for index, block in enumerate(blocks):
        kind = block["type"]
        where = f"{path}.content.{index}"
        _check_place(kind, role, path)
        _check_members(block, kind, f"{where}.{kind}", prompt)
        if kind == "text":
            texts.append(_text(block, path, where))
            prompt.pieces += tokens.split(texts[-1])
        elif kind == "tool_result":
            _read_result(block, where, prompt)
        elif kind == "tool_use":
            _read_call(block, where, prompt)
        elif kind in ("thinking", "redacted_thinking"):
            prompt.pieces += tokens.split(_thought(block, kind, where))
            prompt.recalls = True
        elif kind in ("image", "document"):
            if kind == "image":
                prompt.seen += _image(block, f"{where}.image.source", prompt)
            weight = IMAGE_TOKENS if kind == "image" else DOCUMENT_TOKENS
            payload = orjson.dumps(bare(block)).decode()
            prompt.pieces += tokens.media_tokens(payload, weight)
        else:
            prompt.pieces += tokens.split(orjson.dumps(bare(block)).decode())
        prompt.mark(block)
    return texts


def _check_place(kind: str, role: str, path: str) -> None:
    wanted = _ONLY_IN.get(kind, role)
    if wanted != role:
        raise fault(path, f"`{kind}` blocks can only be in `{wanted}` messages")


def _check_members(block: Body, kind: str, where: str, prompt: Prompt) -> None:
    known = _MEMBERS.get(kind)
    if known is None or prompt.beta:
        return
    for name in block:
        if name not in known:
            raise fault(f"{where}.{name}", "Extra inputs are not permitted")


def _text(block: Body, path: str, where: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise fault(f"{where}.text.text", "Field required")
    if not text:
        raise fault(path, "text content blocks must be non-empty")
    if not text.strip():
        raise fault(path, "text content blocks must contain non-whitespace text")
    return text


def _read_call(block: Body, where: str, prompt: Prompt) -> None:
    call_id = block.get("id")
    if not isinstance(call_id, str) or not _ID.fullmatch(call_id):
        raise fault(f"{where}.tool_use.id", "String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block.get("name"), str):
        raise fault(f"{where}.tool_use.name", "Field required")
    if not isinstance(block.get("input"), dict):
        raise fault(f"{where}.tool_use.input", "Input should be a valid dictionary")
    prompt.call_names[call_id] = block["name"]
    prompt.pieces += tokens.split(orjson.dumps(bare(block)).decode())


def _read_result(block: Body, where: str, prompt: Prompt) -> None:
    content = block.get("content", "")
    inner = Prompt(beta=prompt.beta)
    texts = []
    if content:
        texts = read_blocks(blocks_of(content, where), where, "user", inner)
    prompt.pieces += ["<result>", *inner.pieces]
    name = prompt.call_names.get(str(block.get("tool_use_id")), "")
    prompt.results = [*prompt.results, ToolResult(name, "\n".join(texts))]
    prompt.seen = [*prompt.seen, *inner.seen]


def _thought(block: Body, kind: str, where: str) -> str:
    """What a thought weighs; its signature must be the demo's, and of this very text."""
    if kind == "redacted_thinking":
        data = block.get("data")
        if not isinstance(data, str) or not is_sealed(data):
            raise fault(where, "Invalid `data` in `redacted_thinking` block")
        return data
    thinking, signature = block.get("thinking"), block.get("signature")
    if not isinstance(thinking, str):
        raise fault(f"{where}.thinking.thinking", "Field required")
    # A thought that was not shown has a signature and no text.
    if not isinstance(signature, str) or not is_sealed(signature, thinking or None):
        raise fault(where, "Invalid `signature` in `thinking` block")
    return thinking


def _image(block: Body, where: str, prompt: Prompt) -> list[str]:
    """What is seen of an image; nothing of one that is a file elsewhere."""
    source = block.get("source")
    if not isinstance(source, dict):
        raise fault(where, "Field required" if source is None else "Input should be an object")
    kind = str(source.get("type"))
    if kind not in ("base64", "url", "file"):
        expected = "does not match any of the expected tags: 'base64', 'file', 'url'"
        raise fault(where, f"Input tag '{kind}' found using 'type' {expected}")
    for name in source:
        if name not in _SOURCES[kind] and not prompt.beta:
            raise fault(f"{where}.{kind}.{name}", "Extra inputs are not permitted")
    if kind == "base64":
        return [_image_data(source, f"{where}.base64")]
    name = "url" if kind == "url" else "file_id"
    place = source.get(name)
    if not isinstance(place, str):
        raise fault(f"{where}.{kind}.{name}", "Field required")
    if kind == "file":
        return []
    if not place.startswith("https://"):
        raise fault(f"{where}.url.url", "Only HTTPS URLs are supported.")
    return [images.sentence_of_url(place)]


def _image_data(source: Body, where: str) -> str:
    kind, payload = source.get("media_type"), source.get("data")
    if kind not in _IMAGE_TYPES:
        known = "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
        raise fault(f"{where}.media_type", f"Input should be {known}")
    if not isinstance(payload, str):
        raise fault(f"{where}.data", "Field required")
    data = images.decoded(payload)
    if data is None:
        raise fault(where, "invalid base64 data")
    picture = images.look(data)
    if picture is None or picture.media_type not in _IMAGE_TYPES:
        raise Refusal(400, "Could not process image")
    if picture.media_type != kind:
        message = (
            f"The image was specified using the {kind} media type, but the image appears to be a "
            f"{picture.media_type} image"
        )
        raise fault(where, message)
    return images.sentence(picture)

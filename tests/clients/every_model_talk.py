"""What every SDK is asked for in the matrix, and the one shape in which its answers are compared.

A `Talk` is one SDK, told only where the gateway is and which model to call. Its methods ask in the
SDK's own way, with its own helpers, and give back what the SDK shows. `Talk.watch` has the heads of
the answers. The four are in `every_model_openai.py` and `every_model_others.py`.
"""

import struct
import zlib
from typing import Any, Literal

import msgspec
from client_site import Site, Watch
from pydantic import BaseModel

SAYING = "Grüße aus Köln 🙂"
SAID = f'You said: "{SAYING}".'
TOOL = "get_forecast"
CALLING = "Use get_forecast for Köln"
ARGUMENTS = {"city": "demo city", "days": 1}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
RESULT = "sunny, 21 degrees"
RECALLED = "I remember why I asked for that."
THOUGHT = "The user wants an answer."
IMAGE_URL = "https://pictures.example/cat.png"
SEEN = "I see an image/png of 7 x 5 pixels."
SEEN_AT = f"I would look at the image at {IMAGE_URL} ."
EFFORT: Literal["medium"] = "medium"
BUDGET_TOKENS = 2048
MAX_TOKENS = 8000

Style = Literal["budget", "effort"]
"""How thinking is asked for where a format has two ways: by tokens, or by how much of it."""


def _png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    lines = (b"\x00" + b"\xc0\x80\x40" * width) * height
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


PNG = _png(7, 5)


class Forecast(BaseModel):
    """What a structured output is asked to be; one field may be left out."""

    city: str
    days: int
    sky: Literal["clear", "cloudy"]
    note: str | None = None


class Said(msgspec.Struct, frozen=True):
    """One answer: its text, the thoughts that were shown, and the counts."""

    text: str
    input: int = 0
    output: int = 0
    thought: str = ""


class Called(msgspec.Struct, frozen=True):
    """One tool call; `pieces` is in how many its arguments came."""

    name: str
    arguments: Any
    pieces: int = 1
    thought: str = ""


class Talk:
    """One SDK with one key."""

    name: str
    call_in_pieces = True
    """Whether a streamed call's arguments come as they are written."""

    def __init__(self, site: Site, key: str) -> None:
        self.site = site
        self.key = key
        self.watch = Watch()

    def close(self) -> None:
        raise NotImplementedError

    def text(self, model: str) -> Said:
        raise NotImplementedError

    def stream(self, model: str) -> Said:
        raise NotImplementedError

    def call(self, model: str, *, stream: bool) -> Called:
        """Have it call `get_forecast`."""
        raise NotImplementedError

    def result(self, model: str) -> Said:
        """Have it call the tool, bring the result back, and give what it says then."""
        raise NotImplementedError

    def image(self, model: str, *, url: bool) -> Said:
        """Show it a picture: the file, or where it is."""
        raise NotImplementedError

    def think(self, model: str, style: Style, *, stream: bool) -> Said:
        raise NotImplementedError

    def think_and_call(self, model: str, style: Style) -> tuple[Called, Said]:
        """As `result`, thinking in both turns; everything that it showed is sent back."""
        raise NotImplementedError

    def structured(self, model: str) -> list[Forecast]:
        """An answer as a `Forecast`, by each of the SDK's ways to ask for one."""
        raise NotImplementedError

    def refused(self, model: str, *, stream: bool) -> Exception:
        """The SDK's own error for a call that fails; of a stream what was said before is read."""
        raise NotImplementedError

"""What the demo sees of a picture: its kind and its size, read from the file itself.

`look` reads the head of a PNG, JPEG, GIF, WebP or HEIF file; nothing is decompressed. `decoded` is
base64 as strictly as vendors read it. `sentence` and `sentence_of_url` are what an answer says of a
picture, so that a caller can tell that it arrived whole. Nothing is ever fetched. Pure; used by the
readers of requests.

Sources: PNG (W3C, 11.2.2 IHDR), JPEG (ITU T.81, B.2.2), GIF89a (18), WebP (RFC 9649), HEIF
(ISO 23008-12, `ispe`).
"""

import base64
import binascii
import struct

import msgspec

_START_OF_FRAME = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                             *range(0xCD, 0xD0)))  # fmt: skip
_SCANNED_BYTES = 1 << 20
"""How far into a file the size of a JPEG or HEIF picture is looked for."""

_HEIF_BRANDS = {
    b"heic": "image/heic", b"heix": "image/heic", b"hevc": "image/heic",
    b"mif1": "image/heif", b"msf1": "image/heif",
}  # fmt: skip


class Picture(msgspec.Struct, frozen=True):
    """A picture as its file tells it; the size in pixels."""

    media_type: str
    width: int
    height: int


def decoded(text: str) -> bytes | None:
    """The bytes of base64; None where it is not that, or empty."""
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def look(data: bytes) -> Picture | None:
    """The picture that a file holds; None where it is none that can be read."""
    try:
        for read in (_png, _gif, _webp, _jpeg, _heif):
            found = read(data)
            if found is not None:
                return found if found.width and found.height else None
    except (struct.error, IndexError):
        return None
    return None


def sentence(picture: Picture) -> str:
    """What the demo says of a picture that it was sent."""
    return f"I see an {picture.media_type} of {picture.width} x {picture.height} pixels."


def sentence_of_url(url: str) -> str:
    """What it says of one that it was only told of."""
    return f"I would look at the image at {url[:200]} ."


def _png(data: bytes) -> Picture | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return None
    return Picture("image/png", *struct.unpack_from(">II", data, 16))


def _gif(data: bytes) -> Picture | None:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    return Picture("image/gif", *struct.unpack_from("<HH", data, 6))


def _webp(data: bytes) -> Picture | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, width, low_height, height = struct.unpack_from("<HBHB", data, 24)
        width, height = width << 16 | low_width, height << 16 | low_height
        return Picture("image/webp", width + 1, height + 1)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return Picture("image/webp", (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Picture("image/webp", width & 0x3FFF, height & 0x3FFF)
    return None


def _jpeg(data: bytes) -> Picture | None:
    if data[:3] != b"\xff\xd8\xff":
        return None
    place = 2
    while place < min(len(data), _SCANNED_BYTES):
        marker = data[place + 1]
        if data[place] != 0xFF:
            return None
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return Picture("image/jpeg", width, height)
        # Fill bytes stand alone, everything else before the frame says how long it is.
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _heif(data: bytes) -> Picture | None:
    kind = _HEIF_BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    place = data.find(b"ispe", 12, _SCANNED_BYTES)
    if kind is None or place < 0:
        return None
    return Picture(kind, *struct.unpack_from(">II", data, place + 8))

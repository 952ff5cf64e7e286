"""Request bodies that come compressed: decoded, within a bound, off the loop when large.

The gateway reads a metered body, so it cannot pass one on unread; the upstream gets it decoded.
Used by the handler.
"""

import asyncio
import sys
import zlib
from typing import Protocol

from gateway.errors import GatewayError
from gateway.proxy.server import too_large

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OFF_LOOP_BYTES = 32 * 1024
"""Above it decoding would hold the loop for a good part of a millisecond."""


class _Decoder(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...


async def decode(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body in the clear.

    Raises `GatewayError` `request_too_large` when it grows over `limit` bytes, `invalid_request`
    for an encoding other than gzip, deflate or zstd, and for a body that is not what it says.
    """
    name = encoding.strip().lower()
    if name in (b"identity", b""):
        return body
    if name not in (b"gzip", b"x-gzip", b"deflate", b"zstd"):
        raise GatewayError(
            "invalid_request", "Content-Encoding must be gzip, deflate or zstd",
            param="Content-Encoding",
        )  # fmt: skip
    if len(body) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(_decode, body, name, limit)
    return _decode(body, name, limit)


def _decode(body: bytes, name: bytes, limit: int) -> bytes:
    decoder: _Decoder
    if name == b"zstd":
        decoder = zstd.ZstdDecompressor()
    else:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32 if name != b"deflate" else _window(body))
    try:
        out = decoder.decompress(body, limit + 1)
    except (zlib.error, zstd.ZstdError, EOFError):
        raise GatewayError(
            "invalid_request", f"The body is not valid {name.decode()}", param="Content-Encoding"
        ) from None
    if len(out) > limit:
        raise too_large(limit)
    if not decoder.eof:
        raise GatewayError(
            "invalid_request", f"The {name.decode()} body is cut short", param="Content-Encoding"
        )
    return out


def _window(body: bytes) -> int:
    """`deflate` is zlib's format by RFC 9110 §8.4.1.2, raw deflate by common mistake."""
    return zlib.MAX_WBITS if body[:1] == b"\x78" else -zlib.MAX_WBITS

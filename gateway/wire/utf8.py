"""Whether a body is text at all. The dialects ask before they read.

msgspec looks at the bytes of the strings that it decodes, not at those that it skips or keeps raw:
what is passed on as it came must be looked at as a whole. Pure.
"""

from gateway.errors import GatewayError


def is_text(body: bytes) -> bool:
    """Whether the bytes are UTF-8, which all JSON is (RFC 8259, section 8.1)."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def require(body: bytes) -> None:
    """Raise `GatewayError` `invalid_request` for the body of a request that is not UTF-8."""
    if not is_text(body):
        raise GatewayError("invalid_request", "The body is not UTF-8 text")

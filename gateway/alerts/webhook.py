"""Alerts by webhook: one POST of JSON (`event.document`), signed.

The contract: any status from 200 to 299 is delivery. A redirect is not followed, because the
signed body is for the address that was configured. With a secret, the header
`X-Gateway-Signature: t=<unix seconds>,v1=<hex>` carries the HMAC-SHA256 of `<t>.<body>`, as text
and bytes in a row; a receiver compares it in constant time and refuses an old `t`. What is sent
again has the same `id`. The address may hold a secret anywhere, so errors name its host only.
"""

import asyncio
import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from gateway.alerts.event import Event, Undelivered, document
from gateway.errors import ConfigError

TIMEOUT_SECONDS: Final = 30.0

SIGNATURE_HEADER: Final = "X-Gateway-Signature"


class Webhook:
    """The channel. `secret` "" signs nothing. Raises ConfigError where the address is none."""

    name = "webhook"

    def __init__(self, url: str, secret: str, *, timeout_s: float = TIMEOUT_SECONDS) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError("alerts.webhook_url: expected http(s)://host[:port][/path]")
        self._url = url
        self._host = parts.hostname
        self._secret = secret.encode()
        self._timeout_s = timeout_s

    async def send(self, event: Event, now_ms: int) -> None:
        """Post it; raises Undelivered."""
        body = orjson.dumps(document(event))
        headers = {"Content-Type": "application/json", "User-Agent": "gateway-alerts"}
        if self._secret:
            headers[SIGNATURE_HEADER] = signature(self._secret, now_ms // 1000, body)
        try:
            status = await self._post(body, headers)
        except TimeoutError:
            raise Undelivered(f"{self._host}: no answer in {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            # Its text may quote the address.
            raise Undelivered(f"{self._host}: {type(exc).__name__}") from None
        if not 200 <= status < 300:
            raise Undelivered(f"{self._host}: answered {status}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        # A session of its own: there are a few messages a day, and no cookie outlives one.
        async with (
            asyncio.timeout(self._timeout_s),
            aiohttp.ClientSession() as session,
            session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status


def signature(secret: bytes, seconds: int, body: bytes) -> str:
    """The value of the signature header: `t=<unix seconds>,v1=<hex HMAC-SHA256 of t.body>`."""
    digest = hmac.digest(secret, f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={digest.hex()}"

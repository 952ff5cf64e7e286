"""Who may use the admin API: the holder of the admin token, or of an admin's key.

A key must have been issued for it (`Key.admin`), to a user who is an admin still. Such a key calls
no models; an ordinary key, even of an admin, opens no admin route. A caller's own provider key is
nobody here.
"""

import hmac
from collections.abc import Callable

from aiohttp import web

from gateway.accounts.accounts import Accounts, wall_clock_ms
from gateway.config import Config
from gateway.errors import GatewayError


class Authentication:
    """Tells who sends a request. `config` gives the configuration of the moment."""

    def __init__(
        self,
        accounts: Accounts,
        config: Callable[[], Config],
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._accounts = accounts
        self._config = config
        self._clock_ms = clock_ms

    def __call__(self, request: web.Request) -> str:
        """Who it is, as the log says it. Raises `invalid_api_key` or `permission_denied`."""
        credential = _credential(request)
        config = self._config()
        token = config.admin.token.encode()
        if token and hmac.compare_digest(credential, token):
            return "admin token"
        if not credential.startswith(config.keys.prefix.encode()):
            raise GatewayError("invalid_api_key", "This is no admin's key, nor the admin token")
        now_ms = self._clock_ms()
        key = self._accounts.identify(credential, now_ms)
        if key is None:
            raise self._accounts.refusal(credential, now_ms)
        if not (key.admin and self._accounts.user(key.user_id).admin):
            raise GatewayError("permission_denied", "This key is not for the admin API")
        return f"key {key.id} of {key.user_name}"


def _credential(request: web.Request) -> bytes:
    found = {
        rest.strip()
        for value in request.headers.getall("Authorization", ())
        for scheme, _, rest in (value.strip().partition(" "),)
        if scheme.lower() == "bearer"
    }
    found |= {value.strip() for value in request.headers.getall("x-api-key", ())}
    found.discard("")
    if not found:
        raise GatewayError(
            "invalid_api_key",
            "No key was given: send an admin's key or the admin token as Authorization: Bearer or "
            "x-api-key",
        )
    if len(found) > 1:
        raise GatewayError("invalid_api_key", "More than one key was given")
    return found.pop().encode("utf-8", "surrogateescape")

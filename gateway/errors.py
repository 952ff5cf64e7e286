"""The one error tree.

Every failure the gateway answers with is a `GatewayError`: what went wrong (`code`), how it is
told (`status`, `message`), whose fault it was (`source`), and whether trying again can help
(`retry`). Foreign exceptions are mapped to it in `proxy/upstream.py` and `ledger/store.py` only.
It is rendered once, in the caller's format, by `proxy/errors.py`. Anyone may import this module;
it imports nothing of the gateway.
"""

import re
from typing import Literal

Source = Literal["client", "gateway", "upstream"]
Retry = Literal["never", "if_unsent", "yes"]

Stage = Literal[
    "validation",
    "rate_limit",
    "balance",
    "routing",
    "upstream_connect",
    "upstream_timeout",
    "upstream_status",
    "upstream_stream",
    "client_disconnect",
    "gateway",
]
"""Where in a request's life it failed: `failure.stage` of a receipt."""

# code -> (HTTP status, source, retry). Contract: the error table of the README.
CODES: dict[str, tuple[int, Source, Retry]] = {
    "invalid_request": (400, "client", "never"),
    "unknown_model_pricing": (400, "client", "never"),
    "unsupported_parameter": (400, "client", "never"),
    "invalid_api_key": (401, "client", "never"),
    "insufficient_balance": (402, "client", "never"),
    "call_cap_exceeded": (402, "client", "never"),
    "model_not_allowed": (403, "client", "never"),
    "permission_denied": (403, "client", "never"),
    "not_found": (404, "client", "never"),
    "method_not_allowed": (405, "client", "never"),
    "conflict": (409, "client", "never"),
    "request_too_large": (413, "client", "never"),
    "idempotency_key_reused": (422, "client", "never"),
    "rate_limit_exceeded": (429, "client", "yes"),
    "provider_paused": (429, "gateway", "yes"),
    "internal_error": (500, "gateway", "never"),
    "bad_upstream_response": (502, "upstream", "never"),
    "no_active_api_keys": (503, "gateway", "never"),
    "upstream_error": (503, "upstream", "yes"),
    "ledger_unavailable": (503, "gateway", "yes"),
    "shutting_down": (503, "gateway", "yes"),
    "upstream_timeout": (504, "upstream", "never"),
}


_SECRET = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+)[^\s\"',;]+"
    r"|((?:x-api-key|x-goog-api-key|api-key|authorization|[?&]key)[\"']?\s*[:=]\s*[\"']?)[^\s\"'&,;]+"
    r"|\b(?:sk|gw|gsk|xai|AIza|pplx|rk|pk)[-_]?[A-Za-z0-9_-]{16,}"
)


def scrub(text: str) -> str:
    """A text without anything that looks like a credential: fit for the log, or for an error."""
    return _SECRET.sub(lambda match: (match[1] or match[2] or "") + "[redacted]", text)


MESSAGE_CHARS_MAX = 2000
"""Messages quote what is wrong, of bodies of any size, and are kept with the receipts."""


class GatewayError(Exception):
    """A failure with an answer.

    `code` is a key of `CODES`; `param` names the request field at fault; `retry_after_s` is told
    to the caller where waiting helps; `stage` is what the receipt says.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        stage: Stage = "validation",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        message = message[:MESSAGE_CHARS_MAX]
        super().__init__(message)
        self.code = code
        self.message = message
        self.stage: Stage = stage
        self.param = param
        self.retry_after_s = retry_after_s
        self.status, self.source, self.retry = CODES[code]


class ConfigError(Exception):
    """The configuration is refused; the message opens with the path of the key."""


class StoreError(Exception):
    """The store refuses: locked by another process, wrong version, damaged, or not writable."""


class Conflict(Exception):
    """A control-plane verb contradicts what is stored (a name taken, an unknown id)."""


class Missing(Conflict):
    """What a control-plane verb names is not there."""


class KeyReused(Conflict):
    """An idempotency key came again with other parameters."""

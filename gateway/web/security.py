"""What guards the pages: header fields of answers, cookies, the token and origin of forms.

A form counts only if the browser says that it comes from a page of ours (`Origin`, and
`Sec-Fetch-Site` where it is sent) and if it carries the token of the visitor's session, or, before
sign-in, of a cookie that lives as long as the browser. Scripts run only with the nonce of their
answer; styles and everything else come from this server alone. Pure but for randomness.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from urllib.parse import urlsplit

from aiohttp import web
from multidict import MultiMapping

from gateway.config import Config

TOKEN_FIELD = "csrf"
"""The name of a form's token."""

NEXT_PATH = re.compile(r"/(?:dashboard|docs)(?:[/?][\x21-\x5b\x5d-\x7e]*)?")
"""Where a sign-in may lead: a page of ours, spelled so that no browser reads another host in it."""

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")


def nonce() -> str:
    """A new one, for one answer."""
    return secrets.token_urlsafe(16)


def headers(script_nonce: str) -> dict[str, str]:
    """What every page's answer carries."""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'nonce-{script_nonce}'; style-src 'self'; "
            "img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "Cache-Control": "no-store",
    }


def form_token(secret: bytes, bound_to: str) -> str:
    """The token of a form, for the session or the cookie that it is bound to."""
    return hashlib.blake2b(
        bound_to.encode("utf-8", "surrogatepass"),
        key=secret[:64],
        digest_size=20,
        person=b"gateway.form",
    ).hexdigest()


def form_is_ours(request: web.Request, config: Config, given: str, expected: str) -> bool:
    """Whether a form was sent by a page of ours and carries its token."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    return _own_origin(request, config) and hmac.compare_digest(given.encode(), expected.encode())


def _own_origin(request: web.Request, config: Config) -> bool:
    """Whether `Origin` names this server: the address in the configuration, or the one asked.

    Only the host is compared with the request's own: behind a proxy that ends TLS, the scheme of
    the request is not the browser's.
    """
    origin = request.headers.get("Origin", "")
    public = config.dashboard.public_url
    if public and origin == _origin(public):
        return True
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and bool(host) and host == request.headers.get("Host")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def base_url(request: web.Request, config: Config) -> str:
    """The address of this server as this visitor has it: what samples are filled with."""
    if config.dashboard.public_url:
        return config.dashboard.public_url.rstrip("/")
    host = request.headers.get("Host", "")
    if not _HOST.fullmatch(host):
        host = f"{config.server.host}:{config.server.port}"
    return f"{request.scheme}://{host}"


def secure(config: Config) -> bool:
    """Whether browsers reach these pages over TLS alone, so that cookies may ask for it."""
    return bool(config.server.tls_cert) or config.dashboard.public_url.startswith("https://")


def cookie_name(config: Config, name: str) -> str:
    """The cookie's full name: bound to this very host where browsers allow that."""
    return f"__Host-{name}" if secure(config) else name


def set_cookie(
    answer: web.StreamResponse, config: Config, name: str, value: str, max_age_s: int | None = None
) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send."""
    answer.set_cookie(
        cookie_name(config, name), value, max_age=max_age_s, path="/", httponly=True,
        samesite="Strict", secure=secure(config),
    )  # fmt: skip


def drop_cookie(answer: web.StreamResponse, config: Config, name: str) -> None:
    """Forget it."""
    answer.del_cookie(
        cookie_name(config, name), path="/", httponly=True, samesite="Strict",
        secure=secure(config),
    )  # fmt: skip


def address_of(remote: str | None, request_headers: MultiMapping[str]) -> str:
    """Who tries to sign in: the peer, or whom a proxy on this machine names last.

    Nobody else's `X-Forwarded-For` is believed: whoever connects from outside could say anything.
    Some proxies add to the line that came, some (HAProxy) put a line of their own behind it.
    """
    peer = remote or ""
    lines = request_headers.getall("X-Forwarded-For", [])
    forwarded = lines[-1].rpartition(",")[2].strip() if lines else ""
    try:
        if forwarded and (not peer or ipaddress.ip_address(peer).is_loopback):
            return str(ipaddress.ip_address(forwarded))
    except ValueError:
        pass
    return peer

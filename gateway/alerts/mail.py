"""Alerts by mail: one plain-text message to all recipients, over SMTP (RFC 5321).

The contract: what is configured as "starttls" or "tls" is never spoken in plain text, whatever the
server offers, and certificates are verified; the password goes to a verified server only. A
message that the server took for at least one recipient is delivered; who was refused is logged by
count. It is marked as automatic (RFC 3834), and its Message-ID stays the same when it is sent
again, so mail systems can drop a repetition.
"""

import asyncio
import contextlib
import logging
import os
import re
import ssl
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

import aiosmtplib
from aiosmtplib import SMTP

from gateway.alerts.event import Event, Undelivered, explanation, headline, moment
from gateway.config import Alerts
from gateway.errors import ConfigError

TIMEOUT_SECONDS: Final = 60.0
"""For a whole delivery, from the look-up of the host to the last answer."""

QUIT_SECONDS: Final = 2.0

# RFC 2045 §6.7 (5): lines of quoted-printable text have 76 characters at most.
_QUOTED = policy.SMTP.clone(max_line_length=76)
# Folded at 78 characters, some subjects would begin on their second line, with a space before them.
_UNFOLDED = policy.SMTP.clone(max_line_length=400)

# RFC 5322 §3.2.3 without quoted local parts; the name may be any text on one line.
_SPEC = r"(?P<{0}>[\w.!#$%&'*+/=?^`{{|}}~-]+)@(?P<{1}>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)"
_ADDRESS = re.compile(
    rf"(?P<name>[^<>\x00-\x1f\x7f]*)<{_SPEC.format('user', 'domain')}>"
    rf"|{_SPEC.format('bare', 'bare_domain')}",
    re.ASCII | re.IGNORECASE,
)

_log = logging.getLogger("gateway.alerts")


class Mail:
    """The channel. Raises ConfigError where an address is none or `smtp_ca_file` is unusable."""

    name = "mail"

    def __init__(self, settings: Alerts, *, timeout_s: float = TIMEOUT_SECONDS) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._from = _address("alerts.mail_from", settings.mail_from)
        self._to = tuple(_address("alerts.mail_to", one) for one in settings.mail_to)
        self._tls = None if settings.smtp_security == "none" else _context(settings.smtp_ca_file)

    async def send(self, event: Event, now_ms: int) -> None:
        """Hand it to the server; raises Undelivered."""
        message = self.message(event, now_ms).as_bytes(policy=_UNFOLDED)
        to = [one.addr_spec for one in self._to]
        client = self._client()
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await client.connect()
                    refused, _ = await client.sendmail(self._from.addr_spec, to, message)
            except (aiosmtplib.SMTPException, OSError, ValueError, RuntimeError) as exc:
                raise Undelivered(f"{self._settings.smtp_host}: {_why(exc)}") from None
            if refused:
                _log.warning(
                    "alert mail: the server refused %d of %d recipients",
                    len(refused),
                    len(to),
                )
            # It has the message: whatever comes now, it must not be sent a second time.
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await client.quit(timeout=QUIT_SECONDS)
        finally:
            client.close()

    def message(self, event: Event, now_ms: int) -> EmailMessage:
        """The message, its lines ended as SMTP wants them."""
        message = EmailMessage(policy=_QUOTED)
        message["From"] = self._from
        message["To"] = self._to
        message["Subject"] = f"Gateway: {headline(event)}"
        message["Date"] = format_datetime(moment(now_ms))
        message["Message-ID"] = f"<{event.id}@{self._from.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(explanation(event), cte="quoted-printable")
        return message

    def _client(self) -> SMTP:
        settings = self._settings
        return SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_user or None,
            password=settings.smtp_password or None,
            # Else it asks the resolver for the name of this machine.
            local_hostname=self._from.domain,
            timeout=self._timeout_s,
            use_tls=settings.smtp_security == "tls",
            # False, not None: None would go on in plain text if the server offers nothing else.
            start_tls=settings.smtp_security == "starttls",
            tls_context=self._tls,
        )


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise ConfigError(f"alerts.smtp_ca_file: cannot be used: {exc.strerror or exc}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _address(key: str, text: str) -> Address:
    """The address that is written as it is or as "Name <address>"."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{key}: not an address: {text!r}")
    name = (match["name"] or "").strip().strip('"')
    return Address(name, match["user"] or match["bare"], match["domain"] or match["bare_domain"])


def _why(exc: Exception) -> str:
    """What to log of it: the server's own words are left out, for they may repeat ours."""
    cause = exc.__cause__ if isinstance(exc, aiosmtplib.SMTPConnectError) else None
    first = cause or exc
    if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
        codes = sorted({one.code for one in exc.recipients})
        return f"refused every recipient ({', '.join(map(str, codes))})"
    if isinstance(exc, aiosmtplib.SMTPResponseException):
        return f"answered {exc.code} ({type(exc).__name__})"
    if isinstance(first, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {first.verify_message}"
    if isinstance(first, TimeoutError):
        return "timed out"
    if type(exc) in (aiosmtplib.SMTPException, aiosmtplib.SMTPNotSupported):
        return str(exc)
    if isinstance(first, OSError) and first.strerror:
        # The loop puts the address into the text of a refused connection; numbers below 0 are the
        # resolver's, which says them in words.
        number = first.errno or 0
        return os.strerror(number) if number > 0 else first.strerror
    return type(first).__name__

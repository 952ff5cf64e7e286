"""Mail reaches a real SMTP server over verified TLS, or is not sent at all."""

import asyncio
import email
import email.policy
import os
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import uvloop
from aiosmtpd.smtp import Envelope
from alert_site import (
    NOON_MS,
    PASSWORD,
    SECRET,
    Authority,
    Mailbox,
    a_crossing,
    mail_settings,
    smtp_server,
    soon,
)

from gateway import config as cfg
from gateway.alerts.event import Event, Undelivered, event_of
from gateway.alerts.mail import Mail
from gateway.config import Alerts as Settings
from gateway.errors import ConfigError

EVENT = event_of(a_crossing(threshold="stop"), SECRET, None)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def starttls(authority: Authority, mailbox: Mailbox) -> AsyncIterator[Settings]:
    async with smtp_server(mailbox, authority.context) as port:
        yield mail_settings(port, authority.ca_file)


def read(envelope: Envelope) -> EmailMessage:
    content = envelope.content
    assert isinstance(content, bytes)
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


async def refused(settings: Settings, event: Event = EVENT, *, timeout_s: float = 10.0) -> str:
    with pytest.raises(Undelivered) as info:
        await soon(Mail(settings, timeout_s=timeout_s).send(event, NOON_MS))
    assert info.value.__cause__ is None
    assert PASSWORD not in str(info.value)
    return str(info.value)


# --- delivery -------------------------------------------------------------------------------------


async def test_a_message_arrives_over_starttls_and_says_all_of_it(
    starttls: Settings, mailbox: Mailbox
) -> None:
    await soon(Mail(starttls).send(EVENT, NOON_MS))
    envelope = await soon(mailbox.messages.get())
    assert (envelope.mail_from, envelope.rcpt_tos) == (
        "gateway@example.org",
        ["ops@example.org", "ann@example.org"],
    )
    message = read(envelope)
    assert message["From"] == "Gateway <gateway@example.org>"
    assert message["To"] == "ops@example.org, Ann Lee <ann@example.org>"
    assert (
        message["Subject"]
        == "Gateway: Provider openai is paused: it has cost $50.021 on 2026-11-21"
    )
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == f"<{EVENT.id}@example.org>"
    assert parsedate_to_datetime(message["Date"]).timestamp() * 1000 == NOON_MS
    assert message.get_content_type() == "text/plain"
    text = message.get_content()
    assert "gateway providers resume openai" in text
    assert "daily_stop_usd) is at $50.00" in text
    assert "EHLO example.org" in mailbox.commands


async def test_a_message_arrives_over_tls_from_the_first_byte(
    authority: Authority, mailbox: Mailbox
) -> None:
    async with smtp_server(mailbox, authority.context, implicit=True) as port:
        settings = mail_settings(port, authority.ca_file, smtp_security="tls")
        await soon(Mail(settings).send(EVENT, NOON_MS))
    assert mailbox.messages.qsize() == 1
    assert [one for one in mailbox.commands if one.startswith("AUTH")]


async def test_a_message_arrives_in_plain_text_where_that_is_asked_for(mailbox: Mailbox) -> None:
    async with smtp_server(mailbox, auth=False) as port:
        settings = mail_settings(port, smtp_security="none", smtp_user="", smtp_password="")
        await soon(Mail(settings).send(EVENT, NOON_MS))
    assert mailbox.messages.qsize() == 1


@pytest.mark.parametrize("implicit", [False, True])
def test_the_loop_that_the_gateway_runs_on_delivers_too(
    authority: Authority, mailbox: Mailbox, implicit: bool
) -> None:
    async def deliver() -> None:
        async with smtp_server(mailbox, authority.context, implicit=implicit) as port:
            security = "tls" if implicit else "starttls"
            settings = mail_settings(port, authority.ca_file, smtp_security=security)
            await soon(Mail(settings).send(EVENT, NOON_MS))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(deliver())
    assert mailbox.messages.qsize() == 1


async def test_one_refused_recipient_does_not_keep_it_from_the_others(
    starttls: Settings, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.refused = {"ops@example.org"}
    await soon(Mail(starttls).send(EVENT, NOON_MS))
    assert (await soon(mailbox.messages.get())).rcpt_tos == ["ann@example.org"]
    told = [one.getMessage() for one in caplog.records if one.name == "gateway.alerts"]
    assert told == ["alert mail: the server refused 1 of 2 recipients"]


@pytest.mark.parametrize("rude", [False, True])
async def test_what_the_server_took_is_delivered_however_it_parts(
    starttls: Settings, mailbox: Mailbox, rude: bool
) -> None:
    mailbox.drop_at_quit = rude
    await soon(Mail(starttls).send(EVENT, NOON_MS))
    assert mailbox.messages.qsize() == 1
    assert mailbox.commands[-1] == "QUIT"


async def test_the_same_crossing_has_the_same_message_id_and_another_installation_has_not(
    starttls: Settings,
) -> None:
    mail = Mail(starttls)
    again = event_of(a_crossing(threshold="stop"), SECRET, None)
    other = event_of(a_crossing(threshold="stop"), b"another secret", None)
    ids = [mail.message(one, NOON_MS)["Message-ID"] for one in (EVENT, again, other)]
    assert ids[0] == ids[1] != ids[2]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "ann\r\nBcc: victim@example.org",
        "ann\nSubject: other",
        "ann\r\n\r\nbody",
        "ann\x00\x1b[2J",
        "ann\u2028Bcc: victim@example.org",
        "Zoë 蛇 " + "x" * 500,
    ],
)
async def test_a_name_cannot_add_a_header_or_a_recipient(
    starttls: Settings, mailbox: Mailbox, name: str
) -> None:
    event = event_of(a_crossing("user:7"), SECRET, name)
    await soon(Mail(starttls).send(event, NOON_MS))
    envelope = await soon(mailbox.messages.get())
    message = read(envelope)
    assert sorted(message.keys()) == sorted(
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
         "Content-Transfer-Encoding", "MIME-Version"]
    )  # fmt: skip
    assert len(envelope.rcpt_tos) == 2
    subject = str(message["Subject"])
    assert subject.startswith("Gateway: User ")
    assert subject.isprintable()
    assert subject.endswith(" has spent $50.021 on 2026-11-21")
    assert len(subject) < 140
    assert name[:3] in message.get_content()
    raw = envelope.content
    assert isinstance(raw, bytes)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert max(map(len, body.split(b"\r\n"))) <= 76
    assert b"\n" not in raw.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    "text",
    ["", "ops", "ops@", "@example.org", "a@b.c, d@e.f", "a b@c.d", "a@b.c>", "<a@b.c",
     "a@b.c\nBcc: x@y.z", "Name\r\nBcc: x@y.z <a@b.c>", "é@example.org", "a@exa mple.org"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^alerts\.mail_from: not an address"):
        Mail(mail_settings(1, mail_from=text))
    with pytest.raises(ConfigError, match=r"^alerts\.mail_to: not an address"):
        Mail(mail_settings(1, mail_to=("ops@example.org", text)))


def test_authorities_that_cannot_be_used_are_refused_with_their_key(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"^alerts\.smtp_ca_file: "):
            Mail(mail_settings(1, str(path)))


def test_the_settings_of_a_configuration_make_a_channel() -> None:
    config = cfg.parse(
        '[alerts]\nsmtp_host = "mail.example.org"\nmail_from = "gw@example.org"\n'
        'mail_to = ["ops@example.org"]\n'
    )
    assert Mail(config.alerts).name == "mail"


# --- refusals -------------------------------------------------------------------------------------


async def test_nothing_is_sent_to_a_server_without_starttls(mailbox: Mailbox) -> None:
    async with smtp_server(mailbox, auth=False) as port:
        why = await refused(mail_settings(port))
    assert "STARTTLS" in why
    assert mailbox.commands == ["EHLO example.org"]


async def test_nothing_is_sent_in_plain_text_to_a_server_that_speaks_it_on_the_tls_port(
    mailbox: Mailbox,
) -> None:
    async with smtp_server(mailbox, auth=False) as port:
        await refused(mail_settings(port, smtp_security="tls"), timeout_s=5)
    assert not [one for one in mailbox.commands if one.startswith(("AUTH", "MAIL", "DATA"))]


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_no_password_is_sent_to_a_server_with_an_unknown_certificate(
    authority: Authority, mailbox: Mailbox, security: str
) -> None:
    implicit = security == "tls"
    async with smtp_server(mailbox, authority.context, implicit=implicit) as port:
        why = await refused(mail_settings(port, smtp_security=security))
    assert "certificate was not accepted" in why
    assert not [one for one in mailbox.commands if not one.startswith("EHLO")]


async def test_a_certificate_for_another_host_is_not_accepted(
    tmp_path: Path, mailbox: Mailbox
) -> None:
    other = Authority(tmp_path, "mail.example.org")
    async with smtp_server(mailbox, other.context) as port:
        why = await refused(mail_settings(port, other.ca_file))
    assert "certificate was not accepted" in why


async def test_a_wrong_password_is_told_without_the_servers_words(
    starttls: Settings, mailbox: Mailbox
) -> None:
    wrong = "canary-wrong-password-7Hd2"
    settings = mail_settings(starttls.smtp_port, starttls.smtp_ca_file, smtp_password=wrong)
    why = await refused(settings)
    assert why == "127.0.0.1: answered 535 (SMTPAuthenticationError)"
    assert mailbox.messages.empty()


async def test_a_server_that_refuses_every_recipient_has_not_taken_it(
    starttls: Settings, mailbox: Mailbox
) -> None:
    mailbox.refused = {"ops@example.org", "ann@example.org"}
    assert await refused(starttls) == "127.0.0.1: refused every recipient (550)"


async def test_a_server_that_goes_away_before_it_answers_has_not_taken_it(
    starttls: Settings, mailbox: Mailbox
) -> None:
    mailbox.drop_at_data = True
    await refused(starttls)
    assert mailbox.commands[-1] == "DATA"


async def test_a_server_that_is_not_there_is_named() -> None:
    async with smtp_server(Mailbox()) as port:
        pass
    why = await refused(mail_settings(port))
    assert why.startswith("127.0.0.1: ")
    assert os.strerror(111) in why


async def test_a_server_that_never_speaks_is_given_up() -> None:
    accepted, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await refused(mail_settings(port), timeout_s=0.1) == "127.0.0.1: timed out"
    assert accepted.is_set()
    await soon(left.wait())
    server.close()
    await server.wait_closed()

"""Each crossing is told once by each channel, through failures, restarts, reloads, a full disk."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from alert_site import (
    DAY,
    NOON_MS,
    PASSWORD,
    SECRET,
    Authority,
    Book,
    Clock,
    Hook,
    Mailbox,
    Scripted,
    a_crossing,
    hook_server,
    mail_settings,
    smtp_server,
    soon,
)

from gateway.alerts.daily import DAY_MS, Crossing, Daily, ProviderThresholds, Thresholds
from gateway.alerts.event import Channel
from gateway.alerts.mail import Mail
from gateway.alerts.sender import GRACE_MS, PAUSES_SECONDS, Alerts, Around, channels, rest
from gateway.alerts.webhook import Webhook
from gateway.config import Alerts as Settings
from gateway.errors import ConfigError, StoreError


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "gateway.db")
    yield book
    book.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def around(clock: Clock) -> Around:
    return Around(secret=SECRET, clock_ms=clock, pause=clock.pause, user_name={7: "ann"}.get)


@contextlib.asynccontextmanager
async def running(
    book: Book, clock: Clock, *used: Channel, world: Around | None = None
) -> AsyncIterator[Alerts]:
    alerts = Alerts(book, used, world or around(clock))
    alerts.start()
    try:
        yield alerts
    finally:
        await soon(alerts.stop())


def marks(book: Book) -> set[tuple[int, str, str, str]]:
    return set(book.conn.execute("SELECT day, subject, threshold, channel FROM alerts_sent"))


async def marked(book: Book, times: int = 1) -> None:
    for _ in range(times):
        await soon(book.marked.get())


# --- once -----------------------------------------------------------------------------------------


async def test_a_crossing_is_told_by_each_channel_and_remembered(book: Book, clock: Clock) -> None:
    mail, hook = Scripted("mail"), Scripted("webhook")
    async with running(book, clock, mail, hook) as alerts:
        alerts.crossed(a_crossing("user:7"))
        await marked(book, 2)
    events = mail.delivered.get_nowait(), hook.delivered.get_nowait()
    assert events[0] == events[1]
    assert events[0].crossing == a_crossing("user:7")
    assert events[0].user_name == "ann"
    assert marks(book) == {
        (DAY, "user:7", "alert", "mail"),
        (DAY, "user:7", "alert", "webhook"),
    }


async def test_a_thousand_crossings_of_one_threshold_are_one_message(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    async with running(book, clock, mail) as alerts:
        for number in range(1000):
            alerts.crossed(a_crossing(limit=50 * 10**9 + number))
        alerts.crossed(a_crossing("provider:last"))
        await marked(book, 2)
    told = [mail.delivered.get_nowait().crossing.subject for _ in range(mail.delivered.qsize())]
    assert told == ["provider:openai", "provider:last"]


async def test_a_thousand_subjects_are_a_thousand_messages_one_after_the_other(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    async with running(book, clock, mail) as alerts:
        for number in range(1000):
            alerts.crossed(a_crossing(f"user:{number}"))
        assert mail.tries == 0
        await marked(book, 1000)
    assert mail.tries == 1000
    assert len(marks(book)) == 1000


async def test_alert_and_stop_and_the_next_day_are_told_each(book: Book, clock: Clock) -> None:
    mail = Scripted()
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        alerts.crossed(a_crossing(threshold="stop"))
        await marked(book, 2)
        clock.now_ms += DAY_MS
        alerts.crossed(a_crossing(day=DAY + 1))
        await marked(book)
    ids = {mail.delivered.get_nowait().id for _ in range(3)}
    assert len(ids) == 3


# --- failures -------------------------------------------------------------------------------------


async def test_a_channel_that_fails_rests_longer_each_time_and_then_tells_all(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    mail.fail(7)
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        alerts.crossed(a_crossing("user:7"))
        rests = []
        for _ in range(7):
            rests.append(await clock.paused())
            assert not marks(book)
            clock.end_pause()
        await marked(book, 2)
        assert rests == [*PAUSES_SECONDS, 3600.0, 3600.0]
        mail.fail(1)
        alerts.crossed(a_crossing("user:8"))
        assert await clock.paused() == PAUSES_SECONDS[0]
        clock.end_pause()
        await marked(book)
    assert mail.tries == 11
    assert mail.delivered.qsize() == 3


async def test_a_channel_that_fails_does_not_hold_up_another(book: Book, clock: Clock) -> None:
    mail, hook = Scripted("mail"), Scripted("webhook")
    mail.fail(1)
    async with running(book, clock, mail, hook) as alerts:
        alerts.crossed(a_crossing())
        await clock.paused()
        await marked(book)
    assert marks(book) == {(DAY, "provider:openai", "alert", "webhook")}


async def test_a_message_that_cannot_be_sent_does_not_hold_up_the_next(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    mail.fail(1)
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing("user:1"))
        alerts.crossed(a_crossing("user:2"))
        await clock.paused()
        clock.end_pause()
        await marked(book, 2)
    told = [mail.delivered.get_nowait().crossing.subject for _ in range(2)]
    assert told == ["user:2", "user:1"]


async def test_what_arrives_while_a_channel_rests_does_not_wake_it(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    mail.fail(1)
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        await clock.paused()
        alerts.crossed(a_crossing("user:7"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert mail.tries == 1
        clock.end_pause()
        await marked(book, 2)


async def test_a_fault_in_a_channel_is_a_failure_and_its_text_is_not_logged(
    book: Book, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    mail = Scripted()
    mail.failures.append(KeyError("canary-in-an-exception"))
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        await clock.paused()
        clock.end_pause()
        await marked(book)
    assert "KeyError" in caplog.text
    assert "canary-in-an-exception" not in caplog.text


async def test_what_is_not_told_an_hour_after_its_day_is_given_up(
    book: Book, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    mail = Scripted()
    mail.fail(2)
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        await clock.paused()
        clock.now_ms = (DAY + 1) * DAY_MS + GRACE_MS - 1
        clock.end_pause()
        await clock.paused()
        clock.now_ms += 1
        clock.end_pause()
        alerts.crossed(a_crossing(day=DAY + 1))
        await marked(book)
    assert mail.delivered.get_nowait().crossing.day == DAY + 1
    assert mail.delivered.empty()
    assert "alert by mail given up: provider:openai alert of 2026-11-21" in caplog.text


async def test_a_delivery_that_the_ledger_cannot_mark_is_not_repeated(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    book.refuses = True
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        for _ in range(3):
            await clock.paused()
            clock.end_pause()
        await clock.paused()
        book.refuses = False
        clock.end_pause()
        await marked(book)
    assert mail.tries == 1
    assert marks(book) == {(DAY, "provider:openai", "alert", "mail")}


async def test_a_delivery_not_marked_yet_is_not_repeated_for_a_raised_limit_either(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    book.refuses = True
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing(limit=50))
        await clock.paused()
        alerts.crossed(a_crossing(limit=60))
        clock.end_pause()
        await clock.paused()
        book.refuses = False
        clock.end_pause()
        await marked(book)
    assert mail.tries == 1


# --- restarts and reloads -------------------------------------------------------------------------


async def test_a_restart_tells_what_was_not_told_and_nothing_else(book: Book, clock: Clock) -> None:
    first = Scripted()
    async with running(book, clock, first) as alerts:
        alerts.crossed(a_crossing("user:1"))
        await marked(book)
        first.fail(1)
        alerts.crossed(a_crossing("user:2"))
        await clock.paused()
    second = Scripted()
    alerts = Alerts(book, [second], around(clock))
    for number in (1, 2, 3):
        alerts.crossed(a_crossing(f"user:{number}"))
    alerts.start()
    await marked(book, 2)
    await soon(alerts.stop())
    told = [second.delivered.get_nowait().crossing.subject for _ in range(2)]
    assert told == ["user:2", "user:3"]
    assert second.tries == 2


async def test_a_crash_before_the_mark_repeats_the_message_with_the_same_id(
    book: Book, clock: Clock
) -> None:
    ids = []
    for crashes in (True, False):
        book.refuses = crashes
        mail = Scripted()
        async with running(book, clock, mail) as alerts:
            alerts.crossed(a_crossing())
            ids.append((await soon(mail.delivered.get())).id)
            await (clock.paused() if crashes else marked(book))
    assert ids[0] == ids[1]


async def test_new_settings_are_tried_at_once_for_what_waits_and_for_what_they_missed(
    book: Book, clock: Clock
) -> None:
    mail = Scripted("mail")
    mail.fail(100)
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing())
        for _ in range(4):
            last = await clock.paused()
            clock.end_pause()
        assert (last, await clock.paused()) == (600.0, 3600.0)
        better, hook = Scripted("mail"), Scripted("webhook")
        better.fail(1)
        alerts.use([better, hook])
        assert await clock.paused() == PAUSES_SECONDS[0]
        clock.end_pause()
        await marked(book, 2)
        alerts.use([hook])
        alerts.crossed(a_crossing("user:7"))
        await marked(book)
    assert (better.delivered.qsize(), hook.delivered.qsize()) == (1, 2)
    assert mail.delivered.empty()


async def test_without_channels_nothing_is_told_or_marked(book: Book, clock: Clock) -> None:
    async with running(book, clock) as alerts:
        alerts.crossed(a_crossing())
    assert not marks(book)
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_message_on_its_way_at_the_stop_arrives_and_is_remembered(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    mail.go.clear()
    alerts = Alerts(book, [mail], around(clock))
    alerts.crossed(a_crossing("user:1"))
    alerts.crossed(a_crossing("user:2"))
    alerts.start()
    stopping = asyncio.ensure_future(alerts.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not stopping.done()
    mail.go.set()
    await soon(stopping)
    assert marks(book) == {(DAY, "user:1", "alert", "mail")}
    assert mail.delivered.qsize() == mail.tries == 1
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_message_that_takes_too_long_at_the_stop_is_left_to_the_next_start(
    book: Book, clock: Clock
) -> None:
    mail = Scripted()
    mail.go.clear()
    alerts = Alerts(book, [mail], around(clock))
    alerts.crossed(a_crossing())
    alerts.start()
    await asyncio.sleep(0)
    assert mail.tries == 1
    await soon(alerts.stop(within_s=0.01))
    assert not marks(book)
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_the_pause_of_the_product_ends_by_itself_or_when_it_is_roused() -> None:
    roused = asyncio.Event()
    await soon(rest(0.001, roused))
    resting = asyncio.ensure_future(rest(3600, roused))
    await asyncio.sleep(0)
    assert not resting.done()
    roused.set()
    await soon(resting)


# --- pausing --------------------------------------------------------------------------------------


class Pauses:
    """Keeps providers paused, once the store can be written."""

    def __init__(self) -> None:
        self.paused: list[str] = []
        self.refusals = 0

    async def __call__(self, provider: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("cannot be written at present")
        self.paused.append(provider)


def pausing(clock: Clock, pauses: Pauses) -> Around:
    return Around(secret=SECRET, clock_ms=clock, pause=clock.pause, keep_paused=pauses)


async def test_a_stop_is_made_durable_once_and_again_only_for_a_raised_limit(
    book: Book, clock: Clock
) -> None:
    pauses = Pauses()
    pauses.refusals = 1
    stop = a_crossing(threshold="stop", limit=100 * 10**9)
    async with running(book, clock, world=pausing(clock, pauses)) as alerts:
        alerts.crossed(a_crossing())
        alerts.crossed(stop)
        await clock.paused()
        clock.end_pause()
        await marked(book)
        assert pauses.paused == ["openai"]
    # An admin resumes it; a restart finds the day's spending still over the limit.
    async with running(book, clock, world=pausing(clock, pauses)) as alerts:
        alerts.crossed(stop)
        alerts.crossed(a_crossing(threshold="stop", limit=200 * 10**9))
        await marked(book)
    assert pauses.paused == ["openai", "openai"]
    assert marks(book) == {
        (DAY, "provider:openai", "stop", "pause at 100.00"),
        (DAY, "provider:openai", "stop", "pause at 200.00"),
    }


async def test_spending_pauses_the_provider_at_once_and_a_restart_after_a_crash_does_too(
    book: Book, clock: Clock
) -> None:
    limits = Thresholds(providers={"openai": ProviderThresholds(stop=100)})
    pauses, at_once = Pauses(), list[str]()
    crossings: list[Crossing] = []
    daily = Daily(limits, crossings.append, at_once.append)
    daily.add(7, "openai", 1, 100, 100, NOON_MS)
    assert at_once == ["openai"]
    async with running(book, clock, world=pausing(clock, pauses)) as alerts:
        alerts.crossed(crossings[0])
        await marked(book)
    assert pauses.paused == ["openai"]


# --- real servers ---------------------------------------------------------------------------------


def test_the_settings_say_which_channels_there_are() -> None:
    assert channels(Settings()) == ()
    both = channels(mail_settings(25, webhook_url="https://example.org/hook"))
    assert [type(one) for one in both] == [Mail, Webhook]
    with pytest.raises(ConfigError):
        channels(mail_settings(25, mail_from="nobody"))


async def test_a_mail_server_that_is_down_gets_the_mail_when_it_is_up(
    book: Book, clock: Clock, tmp_path: Path
) -> None:
    authority, mailbox = Authority(tmp_path), Mailbox()
    async with smtp_server(mailbox, authority.context) as port:
        pass
    mail = Mail(mail_settings(port, authority.ca_file))
    async with running(book, clock, mail) as alerts:
        alerts.crossed(a_crossing(threshold="stop"))
        for _ in range(2):
            await clock.paused()
            clock.end_pause()
        await clock.paused()
        async with smtp_server(mailbox, authority.context, port=port):
            clock.end_pause()
            await marked(book)
    assert mailbox.messages.qsize() == 1


async def test_a_webhook_that_answers_500_is_called_again_with_the_same_id(
    book: Book, clock: Clock
) -> None:
    hook = Hook()
    hook.answers = [web.Response(status=500), web.Response(status=302)]
    async with hook_server(hook) as port:
        webhook = Webhook(f"http://127.0.0.1:{port}/", "secret")
        async with running(book, clock, webhook) as alerts:
            alerts.crossed(a_crossing())
            for _ in range(2):
                await clock.paused()
                clock.now_ms += 5_000
                clock.end_pause()
            await marked(book)
    posts = [hook.posts.get_nowait() for _ in range(3)]
    assert hook.posts.empty()
    assert len({body for body, _ in posts}) == 1
    assert len({headers["X-Gateway-Signature"] for _, headers in posts}) == 3


async def test_no_secret_is_logged_whatever_fails(
    book: Book, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The lines of the mail server are not the gateway's.
    caplog.set_level(logging.CRITICAL, logger="mail.log")
    caplog.set_level(logging.DEBUG)
    wrong, canary = "canary-wrong-password-7Hd2", "canary-hook-8Xw"
    authority, mailbox, hook = Authority(tmp_path), Mailbox(), Hook()
    mailbox.refused = {"ops@example.org", "ann@example.org"}
    hook.answers = [web.Response(status=500, text=canary)]
    async with smtp_server(mailbox, authority.context) as port, hook_server(hook) as web_port:
        good = mail_settings(
            port, authority.ca_file,
            webhook_url=f"http://me:{canary}@127.0.0.1:{web_port}/{canary}?token={canary}",
            webhook_secret=canary,
        )  # fmt: skip
        bad = mail_settings(port, authority.ca_file, smtp_password=wrong)
        async with running(book, clock, *channels(good)) as alerts:
            alerts.crossed(a_crossing())
            await clock.paused()
            await clock.paused()
            alerts.use(channels(bad))
            await clock.paused()
            mailbox.refused = set()
            alerts.use(channels(good))
            await marked(book, 2)
    assert mailbox.messages.qsize() == 1
    said = caplog.text + repr([one.__dict__ for one in caplog.records])
    assert "answered 535" in said
    assert "answered 500" in said
    for secret in (PASSWORD, wrong, canary, SECRET.decode()):
        assert secret not in said

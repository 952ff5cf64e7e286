"""A user's first page: balance, holds, the month, the last calls, and why calls are refused."""

import asyncio
import html
from pathlib import Path

import msgspec
from harness import serving
from markupsafe import escape
from web_client import WebSite

from gateway.accounts.accounts import KeySpec
from gateway.ledger.entry import Entry, Opening
from gateway.ledger.ids import new_id
from gateway.ledger.usage import DAY_MS, ReportRow
from gateway.proxy.services import Services
from gateway.web import month
from gateway.wire.neutral import Usage

CHAT = b'{"model":"%b","messages":[{"role":"user","content":"Hello"}]}'


async def key_of(site: WebSite, user: str = "ada") -> bytes:
    return (await site.running.gateway.accounts.create_key(user, KeySpec(name="one")))[1].encode()


async def call(site: WebSite, key: bytes, model: str = "basic") -> int:
    answer = await site.running.call("/v1/chat/completions", CHAT % model.encode(), key=key)
    return answer.status


async def spent(site: WebSite, model: str, nano_usd: int, days_ago: int, user: str = "ada") -> None:
    """A call of the past, as its receipt says."""
    ledger = site.running.gateway.ledger
    user_id = site.running.gateway.accounts.user_named(user).id
    at_ms = Services.wall_ms() - days_ago * DAY_MS
    opening = Opening(
        new_id(), f"user:{user_id}", at_ms, "/v1/chat/completions", "openai_chat", model, True, 9,
        user_id, "key_1",
    )  # fmt: skip
    done = asyncio.Event()
    ledger.finish(
        Entry(
            opening=opening, status="succeeded", http_status=200, provider="demo",
            route_model=model, usage=Usage(input_tokens=700, output_tokens=70),
            usage_source="reported", cost_nano_usd=nano_usd, billed=True,
        ),
        done.set,
    )  # fmt: skip
    async with asyncio.timeout(5):
        await done.wait()


def chart_of(text: str) -> month.Chart:
    data = html.unescape(text.split('data-month="')[1].split('"')[0])
    return msgspec.json.decode(data, type=month.Chart)


async def test_a_new_user_is_led_to_their_first_key(site: WebSite) -> None:
    ada = await site.user("ada")
    seen = await ada.get("/dashboard")
    assert "Make your first call" in seen.words
    assert "No calls yet" in seen.words
    assert "The last 30 days" not in seen.words
    await key_of(site)
    assert "Make your first call" not in (await ada.get("/dashboard")).words


async def test_a_call_is_seen_with_what_it_cost_to_the_nano_dollar(site: WebSite) -> None:
    ada = await site.user("ada")
    key = await key_of(site)
    assert await call(site, key) == 200
    gateway = site.running.gateway
    user = gateway.accounts.user_named("ada")
    (receipt,) = await gateway.ledger.receipts(f"user:{user.id}", limit=5)
    cost = receipt.entry.cost_nano_usd
    assert cost
    exact = f"$0.{cost:09d}".rstrip("0")
    seen = await ada.get("/dashboard")
    assert f'href="/dashboard/receipts/{receipt.entry.opening.id}"' in seen.text
    assert f"Spent today (UTC) {exact} 1 request," in seen.words
    assert f"basic succeeded {receipt.entry.usage.total_tokens} " in seen.words  # type: ignore[union-attr]
    assert seen.words.count(exact) >= 4  # the tile, the table of days, of models, of receipts
    left = f"$9.{10**9 - cost:09d}".rstrip("0")
    assert f"Balance {left} " in seen.words


async def test_a_request_in_flight_is_seen_with_what_it_holds_and_by_nobody_else(
    site: WebSite,
) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    key = await key_of(site)
    running = asyncio.ensure_future(call(site, key, "demo+delay=60000"))
    gateway = site.running.gateway
    funds = gateway.accounts.funds(gateway.accounts.user_named("ada").id)
    async with asyncio.timeout(5):
        while not (funds.held and gateway.services.exchanges):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
    (exchange,) = gateway.services.exchanges
    seen = await ada.get("/dashboard")
    held = f"$0.{funds.held:09d}".rstrip("0")
    assert f"Held for calls under way {held} " in seen.words
    assert "In flight 1 request being served" in seen.words
    assert f"/dashboard/receipts/{exchange.id}" in seen.text
    other = await eve.get("/dashboard")
    assert "In flight 0 requests being served" in other.words
    assert exchange.id not in other.text
    running.cancel()


async def test_the_month_is_stacked_by_the_models_that_cost_most_and_the_others(
    site: WebSite,
) -> None:
    ada = await site.user("ada")
    await site.user("eve")
    for number in range(8):
        await spent(site, f"model-{number}", (number + 1) * 1000, number)
    await spent(site, "model-7", 105, 29)
    await spent(site, "too old", 10**9, 30)
    await spent(site, "not mine", 10**9, 1, "eve")
    seen = await ada.get("/dashboard")
    chart = chart_of(seen.text)
    assert len(chart.days) == month.DAYS
    assert [band.name for band in chart.bands] == [
        "model-7", "model-6", "model-5", "model-4", "model-3", "other models",
    ]  # fmt: skip
    newest = {band.name: list(reversed(band.nano_usd)) for band in chart.bands}
    assert (newest["model-7"][7], newest["model-7"][29]) == (8000, 105)
    assert newest["other models"][:4] == [1000, 2000, 3000, 0]
    assert sum(map(sum, (band.tokens for band in chart.bands))) == 9 * 770
    assert "30 days 9 0 6,300 630 $0.000036105" in seen.words
    assert "too old" not in seen.text.split("Latest receipts")[0]
    assert "not mine" not in seen.text


async def test_the_chart_stays_within_bounds_however_many_names_a_user_calls() -> None:
    sums = {"requests": 1, "failed": 0, "input_tokens": 5, "output_tokens": 5}
    rows = [
        ReportRow(100, None, None, None, f"m{n}", nano_usd=n, list_nano_usd=n, **sums)
        for n in range(3000)
    ]
    made = month.of_rows(rows, 100)
    assert len(made.models) == month.MODELS_SHOWN
    assert made.hidden == 3000 - month.MODELS_SHOWN
    assert len(made.chart.bands) == month.BANDS_MAX + 1
    assert sum(band.nano_usd[0] for band in made.chart.bands) == made.total.nano_usd


async def test_who_has_no_credit_sees_what_that_means_and_what_to_do(site: WebSite) -> None:
    ada = await site.user("ada", usd=0)
    key = await key_of(site)
    assert await call(site, key) == 402
    seen = await ada.get("/dashboard")
    assert "There is no credit on your account." in seen.words
    assert "402 insufficient_balance" in seen.words
    await site.running.gateway.accounts.correct("ada", -5, "taken again")
    assert "Your balance is below zero." in (await ada.get("/dashboard")).words
    await site.running.gateway.accounts.credit("ada", 10**9)
    seen = await ada.get("/dashboard")
    assert "insufficient_balance" not in seen.words.split("Latest receipts")[0]


async def test_a_balance_that_is_all_held_is_told_from_one_that_is_used_up(site: WebSite) -> None:
    ada = await site.user("ada", usd=1)
    gateway = site.running.gateway
    funds = gateway.accounts.funds(gateway.accounts.user_named("ada").id)
    assert funds.hold(10**9)
    seen = await ada.get("/dashboard")
    assert "All of your balance is held for calls under way." in seen.words
    assert "Balance $1.00" in seen.words
    funds.release(10**9)
    assert "All of your balance" not in (await ada.get("/dashboard")).words


async def test_a_paused_provider_and_a_suspension_are_told(site: WebSite) -> None:
    ada = await site.user("ada")
    gateway = site.running.gateway
    await gateway.settings.pause("demo", "daily_stop")
    seen = await ada.get("/dashboard")
    assert "Provider demo is paused." in seen.words
    assert "it cost as much today as it may" in seen.words
    await gateway.settings.resume("demo")
    assert "is paused" not in (await ada.get("/dashboard")).words
    await gateway.accounts.suspend_user("ada")
    assert "This account is suspended." in (await ada.get("/dashboard")).words


async def test_a_server_without_any_provider_key_says_so(tmp_path: Path) -> None:
    text = f"""
    [server]
    port = 0
    [store]
    path = "{tmp_path / "gateway.db"}"
    [providers.openai]
    format = "openai"
    base_url = "http://127.0.0.1:9/v1"
    keys = ["env:NOBODY_HAS_SET_THIS"]
    """
    async with serving(text) as running:
        site = WebSite(running)
        try:
            ada = await site.user("ada")
            assert "No provider has a key." in (await ada.get("/dashboard")).words
            assert "No model can be called" in (await ada.get("/dashboard/models")).words
        finally:
            await site.close()


async def test_names_that_callers_make_up_are_text_and_nothing_else(site: WebSite) -> None:
    ada = await site.user("ada")
    key = await key_of(site)
    evil = "</script><img src=x onerror=alert(1)>'\\\"{{7*7}}"
    await site.running.call(
        "/v1/chat/completions",
        msgspec.json.encode({"model": evil, "messages": []}), key=key,
    )  # fmt: skip
    await spent(site, evil, 500, 0)
    seen = await ada.get("/dashboard")
    assert "<img" not in seen.text.replace('<img src="/dashboard/static', "")
    assert str(escape(evil)) in seen.text
    assert chart_of(seen.text).bands[0].name == evil

"""Admin's overview, requests in flight, codes, reload and the proof of the books."""

import asyncio
import re
import sqlite3
from pathlib import Path

import msgspec
from harness import Running, request_bytes, serving, until
from web_client import CONFIG, Seen, Visitor, WebSite

from gateway.ledger import usage
from gateway.ledger.usage import DAY_MS

ADMIN = "/dashboard/admin"
CODES = f"{ADMIN}/codes"


def body(model: str = "basic", **more: object) -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    return msgspec.json.encode(asked | more)


async def made_calls(site: WebSite) -> int:
    """Two that succeed and one that does not, of a user who pays half more; what they paid."""
    running = site.running
    key = await running.key("caller")
    root = await site.user("root", admin=True)
    user = running.gateway.accounts.user_named("caller")
    await root.get(f"{ADMIN}/users/{user.id}")
    await root.send(f"{ADMIN}/users/{user.id}/settings", {"rate_multiplier": "1.5"})
    for model in ("basic", "basic", "demo+status=500"):
        await running.call("/v1/chat/completions", body(model), key=key)
    return 10**12 - running.gateway.accounts.funds(user.id).balance


async def test_the_overview_tells_what_was_charged_and_what_it_cost(site: WebSite) -> None:
    charged = await made_calls(site)
    root = site.visitor()
    await root.sign_in("root@example.org")
    seen = await root.get(ADMIN)
    assert charged % 3 == 0
    assert charged > 0
    paid, cost, margin = (usd(nano) for nano in (charged, charged // 3 * 2, charged // 3))
    assert f"Charged today (UTC) {paid} list price {cost}, margin {margin}" in seen.words
    assert f"Charged in 30 days {paid} list price {cost}, margin {margin}" in seen.words
    assert "Requests today 3 1 did not succeed" in seen.words
    assert re.search(
        rf"caller 3 1 [\d,]+ [\d,]+ {re.escape(f'{paid} {cost} {margin}')}", seen.words
    )
    assert re.search(
        rf"demo/demo 2 0 [\d,]+ [\d,]+ {re.escape(f'{paid} {cost} {margin}')}", seen.words
    )
    assert re.search(r"demo 3 1 ", seen.words)


def usd(nano_usd: int) -> str:
    return f"${nano_usd / 10**9:.9f}".rstrip("0")


async def test_alerts_that_were_delivered_are_told(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    ledger, today = site.running.gateway.ledger, site.running.gateway.services.wall_ms() // DAY_MS

    def write(conn: sqlite3.Connection) -> None:
        usage.mark_sent(conn, today, "user:1", "alert", "mail", 1)
        usage.mark_sent(conn, today - 1, "provider:demo", "stop", "webhook", 2)
        usage.mark_sent(conn, today - 7, "provider:old", "stop", "webhook", 3)

    await ledger.execute(write)
    words = (await root.get(ADMIN)).words
    assert "provider demo paused by its daily stop webhook" in words
    assert "user root reached its daily alert mail" in words
    assert "provider old" not in words


async def test_the_books_and_the_chain_are_proved_on_demand(site: WebSite) -> None:
    await made_calls(site)
    root = site.visitor()
    await root.sign_in("root@example.org")
    await root.get(ADMIN)
    books = await root.send(f"{ADMIN}/check", {"what": "books"})
    assert "All is in order" in books.words
    assert "Receipts 3" in books.words
    chain = await root.send(f"{ADMIN}/check", {"what": "chain"})
    assert "3 receipts, none changed" in chain.words


async def test_books_that_are_wrong_are_told_line_by_line(site: WebSite) -> None:
    await made_calls(site)
    root = site.visitor()
    await root.sign_in("root@example.org")
    await site.running.gateway.ledger.execute(
        lambda conn: conn.execute("UPDATE balances SET nano_usd = nano_usd + 7 WHERE account = 1")
    )
    await root.get(ADMIN)
    seen = await root.send(f"{ADMIN}/check", {"what": "books"})
    assert "All is in order" not in seen.words
    assert re.search(r"account 1: balance \d+ is not the sum", seen.words)


async def test_one_check_runs_at_a_time(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get(ADMIN)
    sent = [root.send(f"{ADMIN}/check", {"what": "books"}) for _ in range(6)]
    seen = await asyncio.gather(*sent)
    told = sorted((one.status, "under way already" in one.words) for one in seen)
    assert (200, False) in told
    assert all(one in ((200, False), (409, True)) for one in told)


async def test_reloading_says_what_changed_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = CONFIG.format(path=tmp_path / "gateway.db", more="")
    path.write_text(text)
    async with serving(text, path=path) as running:
        site = WebSite(running)
        root = await site.user("root", admin=True)
        await root.get(ADMIN)
        path.write_text(text + "[limits]\nrpm = 7\n[log]\nrequests = true\n")
        seen = await root.send(f"{ADMIN}/reload")
        assert "Reloaded. Changed: limits.rpm, log.requests." in seen.words
        path.write_text(text + '[limits]\nrpm = "many <b>"\n')
        refused = await root.send(f"{ADMIN}/reload")
        assert refused.status == 409
        assert "nothing was changed" in refused.words
        assert running.gateway.services.config.limits.rpm == 7
        await site.close()


# --- in flight ----------------------------------------------------------------------------------


async def flight(root: Visitor, running: Running, key: bytes) -> tuple[Seen, Seen]:
    """The page and its part while a stream has begun and not ended."""
    client = await running.client()
    fields = [(b"Authorization", b"Bearer " + key), (b"Content-Type", b"application/json")]
    asked = body("demo+delay=30000", stream=True)
    await client.send(request_bytes("POST", "/v1/chat/completions", fields, asked))
    await until(lambda: any(one.provider for one in running.gateway.control.in_flight()))
    seen = await root.get(f"{ADMIN}/in-flight")
    rows = await root.get(f"{ADMIN}/in-flight/rows")
    client.close()
    return seen, rows


async def test_requests_in_flight_are_shown_with_what_they_hold(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    assert "Nothing at this moment" in (await root.get(f"{ADMIN}/in-flight")).words
    seen, rows = await flight(root, site.running, await site.running.key("caller"))
    for page in (seen, rows):
        assert "1 request is being served" in page.words
        told = (
            r"caller demo\+delay=30000 demo /v1/chat/completions stream \d \$0\.0\d+ [0-9a-f]{8}…"
        )
        assert re.search(told, page.words), page
    assert "<nav" not in rows.text
    assert "<html" not in rows.text


# --- codes --------------------------------------------------------------------------------------


async def test_codes_are_shown_once_and_redeemed_once(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada", usd=0)
    accounts = site.running.gateway.accounts
    await root.get(CODES)
    made = await root.send(CODES, {"amount": "2.50", "count": "3", "expires": "2100-01-01"})
    texts = re.search(r"<textarea[^>]*>([^<]+)</textarea>", made.text)
    assert texts, made
    codes = texts[1].split()
    assert len(codes) == 3
    assert "3 codes of $2.50 each" in made.words
    again = await root.get(CODES)
    assert not any(code in again.text for code in codes)
    await accounts.redeem("ada", codes[0])
    redeemed = await root.get(f"{CODES}?status=redeemed")
    assert re.search(r"redeemed \$2\.50 .* ada", redeemed.words)
    assert (await root.get(f"{CODES}?status=active")).words.count("active $2.50") == 2


async def test_codes_that_cannot_be_made_are_refused_with_what_was_typed(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await root.get(CODES)
    fields = {"amount": "1", "count": "1"}
    for name, value in (
        ("amount", "0"), ("amount", "a lot"), ("count", "0"), ("count", "1001"), ("count", "many"),
        ("count", ""), ("expires", "2020-01-01"), ("expires", "tomorrow"),
    ):  # fmt: skip
        seen = await root.send(CODES, fields | {name: value})
        assert seen.status == 400, (name, value)
        assert f'value="{value}"' in seen.text, (name, value)
        assert 'aria-invalid="true"' in seen.text, (name, value)
    assert not await site.running.gateway.accounts.list_codes()

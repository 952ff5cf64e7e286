"""Receipts on pages: lists, search, one receipt with its arithmetic and its proof."""

import re
import sqlite3
from fractions import Fraction
from typing import Any

import pytest
from harness import OWN_KEY
from hypothesis import given
from hypothesis import strategies as st
from web_client import WebSite

from gateway.ledger import prices
from gateway.ledger.entry import Attempt, Entry, Opening
from gateway.ledger.prices import Price
from gateway.web import arithmetic, waterfall
from gateway.wire.neutral import SidePass, Usage

CHAT = b'{"model":"demo","max_tokens":50,"messages":[{"role":"user","content":"Say hello"}]}'
STREAM = CHAT.replace(b'"max_tokens"', b'"stream":true,"max_tokens"')
WRONG = b'{"model":"<b>no such model</b>","messages":[]}'


async def called(site: WebSite, user: str, body: bytes = CHAT) -> str:
    """A call by a key of that user: the id of its receipt."""
    _, key = await site.running.gateway.accounts.create_key(user)
    answer = await site.running.call("/v1/chat/completions", body, key=key.encode())
    return answer.receipt_id


async def test_a_call_is_on_the_list_and_its_page_shows_it_whole(site: WebSite) -> None:
    ada = await site.user("ada")
    receipt_id = await called(site, "ada")
    seen = await ada.get("/dashboard/receipts")
    assert f'href="/dashboard/receipts/{receipt_id}"' in seen.text
    page = await ada.get(f"/dashboard/receipts/{receipt_id}")
    assert page.status == 200
    shown = (await site.running.gateway.ledger.receipt(receipt_id, None)).entry  # type: ignore[union-attr]
    assert shown.cost_nano_usd
    amount = prices.usd_text(shown.cost_nano_usd)
    assert f"Charged ${amount}" in page.words
    assert "checked just now" in page.words
    assert "does not fit" not in page.words
    assert "Rounded half up to a billionth of a dollar, once" in page.words
    assert "Stream" not in page.words


async def test_what_a_client_sent_is_text_on_the_page_and_nothing_else(site: WebSite) -> None:
    ada = await site.user("ada")
    receipt_id = await called(site, "ada", WRONG)
    for path in ("/dashboard/receipts", f"/dashboard/receipts/{receipt_id}"):
        seen = await ada.get(path)
        assert "<b>no such" not in seen.text
        assert "&lt;b&gt;no such model&lt;/b&gt;" in seen.text


async def test_another_users_receipt_is_no_receipt(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    receipt_id = await called(site, "ada")
    assert (await eve.get(f"/dashboard/receipts/{receipt_id}")).status == 404
    assert (await eve.get(f"/dashboard/receipts?id={receipt_id}")).status == 200
    assert receipt_id not in (await eve.get("/dashboard/receipts")).text
    assert (await eve.get(f"/dashboard/admin/receipts/{receipt_id}")).status == 403
    assert (await eve.get("/dashboard/admin/receipts")).status == 403
    assert (await ada.get(f"/dashboard/receipts/{receipt_id}")).status == 200
    assert (await ada.get("/dashboard/receipts/not-an-id")).status == 404


async def test_an_admin_sees_everybodys_and_whose_they_are(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    await site.user("ada")
    receipt_id = await called(site, "ada")
    own = await site.running.call("/v1/demo/chat/completions", CHAT, key=OWN_KEY)
    seen = await root.get("/dashboard/admin/receipts")
    assert receipt_id in seen.text
    assert "own provider key" in seen.words
    for one, owner in ((receipt_id, "ada"), (own.receipt_id, "own provider key")):
        assert owner in (await root.get(f"/dashboard/admin/receipts/{one}")).words
    by_user = await root.get("/dashboard/admin/receipts?user=ada")
    assert receipt_id in by_user.text
    assert own.receipt_id not in by_user.text
    assert (await root.get("/dashboard/admin/receipts?user=nobody")).status == 400


async def test_the_beginning_of_an_id_finds_it_and_a_whole_one_leads_to_its_page(
    site: WebSite,
) -> None:
    ada = await site.user("ada")
    receipt_id = await called(site, "ada")
    for text in (receipt_id, receipt_id.upper(), receipt_id[:23]):
        seen = await ada.get(f"/dashboard/receipts?id={text}")
        assert seen.path == f"/dashboard/receipts/{receipt_id}"
    seen = await ada.get("/dashboard/receipts?id=xyz")
    assert seen.status == 400
    assert "first 8 characters" in seen.words


@pytest.mark.parametrize(
    ("query", "hits"),
    [("status=succeeded", 2), ("status=failed", 1), ("model=demo", 2), ("model=dem", 0),
     ("error=unknown_model_pricing", 1), ("error=something", 0),
     ("since=2020-01-01", 3), ("until=2020-01-01", 0),
     ("status=nonsense", 3)],
)  # fmt: skip
async def test_filters_leave_what_fits(site: WebSite, query: str, hits: int) -> None:
    ada = await site.user("ada")
    for body in (CHAT, STREAM, WRONG):
        await called(site, "ada", body)
    assert rows(await ada.get(f"/dashboard/receipts?{query}")) == hits


async def test_a_day_that_is_none_is_named(site: WebSite) -> None:
    ada = await site.user("ada")
    seen = await ada.get("/dashboard/receipts?since=yesterday")
    assert seen.status == 400
    assert "Expected a day such as 2026-11-21" in seen.words


async def test_pages_follow_one_another_without_gap_or_repetition(site: WebSite) -> None:
    ada = await site.user("ada")
    _, key = await site.running.gateway.accounts.create_key("ada")
    made = [
        (await site.running.call("/v1/chat/completions", WRONG, key=key.encode())).receipt_id
        for _ in range(105)
    ]
    first = await ada.get("/dashboard/receipts")
    second = await ada.get(link(first.text, "next"))
    third = await ada.get(link(second.text, "next"))
    seen = [one for page in (first, second, third) for one in ids(page.text)]
    assert seen == list(reversed(made))
    back = await ada.get(link(third.text, "prev"))
    assert ids(back.text) == ids(second.text)
    assert 'rel="next"' not in third.text


async def test_a_record_that_was_changed_is_shown_as_changed(site: WebSite) -> None:
    ada = await site.user("ada")
    receipt_id = await called(site, "ada")
    store = sqlite3.connect(site.running.gateway.config.store.path)
    with store:
        store.execute("DROP TRIGGER receipts_refuse_update")
        store.execute("UPDATE receipts SET created_ms = created_ms - 1")
    store.close()
    assert "does not fit" in (await ada.get(f"/dashboard/receipts/{receipt_id}")).words


def rows(seen: Any) -> int:
    return len(ids(seen.text))


def ids(text: str) -> list[str]:
    return re.findall(r'href="/dashboard/receipts/([0-9a-f-]{36})"', text)


def link(text: str, rel: str) -> str:
    found = re.search(rf'href="([^"]+)" rel="{rel}"', text)
    assert found, text
    return found[1].replace("&amp;", "&")


# --- the arithmetic ---------------------------------------------------------------------------

OPENING = Opening("id", "user:1", 0, "/v1/x", "openai_chat", "m", False, 1, 1, "key")
_counts = st.integers(0, 10**7)
_rates = st.one_of(st.none(), st.integers(0, 10**12))
_factors = st.sampled_from(["1", "1.2", "0.5", "1.333", "0", "2.000001"])


@given(
    st.builds(Usage, input_tokens=_counts, output_tokens=_counts, cache_read_input_tokens=_counts,
              cache_creation_input_tokens=_counts, reasoning_tokens=_counts,
              input_audio_tokens=_counts, output_image_tokens=_counts),
    st.builds(Price, input=st.integers(0, 10**12), output=st.integers(0, 10**12),
              cache_read=_rates, cache_write=_rates, reasoning=_rates, input_audio=_rates,
              output_image=_rates),
    _factors,
    _factors,
)  # fmt: skip
def test_the_lines_add_up_to_the_charge_exactly(
    usage: Usage, price: Price, rate: str, model: str
) -> None:
    charged = prices.cost(usage, price, rate_multiplier=rate, model_multiplier=model)
    entry = Entry(
        opening=OPENING, status="succeeded", http_status=200, usage=usage, cost_nano_usd=charged,
        price=prices.shown(price, "v"), rate_multiplier=rate, model_multiplier=model, billed=True,
    )  # fmt: skip
    bill = arithmetic.bill_of(entry)
    assert bill is not None
    assert bill.agrees
    assert bill.nano_usd == charged
    total = sum(number(line.amount) for line in bill.lines)
    assert total == number(bill.subtotal)
    for line in bill.lines:
        product = line.tokens * Fraction(line.per_mtok) / 1_000_000
        assert product == number(line.amount)
    exact = number(bill.subtotal) * Fraction(rate) * Fraction(model)
    assert exact == number(bill.exact)
    assert abs(exact * 10**9 - charged) <= Fraction(1, 2)


def number(text: str) -> Fraction:
    """Exact however many digits there are, which a Decimal's context would round."""
    return Fraction(text.replace(",", ""))


def test_a_pass_on_another_model_is_said_not_to_be_in_the_lines() -> None:
    usage = Usage(10, 10, billed_besides=[SidePass("advisor", "other", 1000, 1000)])
    price, other = Price(10**9, 10**9), Price(5 * 10**9, 5 * 10**9)
    charged = prices.cost(usage, price, price_of=lambda model: other)
    entry = Entry(
        opening=OPENING, status="succeeded", http_status=200, usage=usage, cost_nano_usd=charged,
        price=prices.shown(price, "v"),
    )  # fmt: skip
    bill = arithmetic.bill_of(entry)
    assert bill is not None
    assert not bill.agrees


def test_without_counts_or_a_price_there_is_no_arithmetic() -> None:
    entry = Entry(opening=OPENING, status="failed", http_status=400)
    assert arithmetic.bill_of(entry) is None
    entry.usage = Usage(1, 1)
    assert arithmetic.bill_of(entry) is None


# --- the drawing ------------------------------------------------------------------------------

_spans = st.floats(0, 10**6, allow_nan=False)


@given(
    st.lists(st.builds(Attempt, st.just("p"), st.just("m"), st.sampled_from(
        ["succeeded", "upstream_status", "upstream_connect"]), st.just(500), _spans), max_size=5),
    st.one_of(st.none(), _spans),
    st.one_of(st.none(), _spans),
    _spans,
)  # fmt: skip
def test_every_bar_is_within_the_drawing_whatever_the_times_say(
    attempts: list[Attempt], connect: float | None, first: float | None, total: float
) -> None:
    entry = Entry(
        opening=OPENING, status="succeeded", http_status=200, attempts=attempts,
        connect_ms=connect, first_byte_ms=first, total_ms=total,
    )  # fmt: skip
    for bar in waterfall.bars(entry):
        assert bar.x >= 0
        assert bar.width >= 0
        assert bar.x + bar.width <= waterfall.WIDTH + 0.2


def test_attempts_that_failed_come_before_the_answer() -> None:
    entry = Entry(
        opening=OPENING, status="succeeded", http_status=200, total_ms=1000.0,
        attempts=[Attempt("a", "m", "upstream_status", 429, 200.0),
                  Attempt("b", "m", "succeeded", 200, 800.0)],
        connect_ms=100.0, first_byte_ms=600.0,
    )  # fmt: skip
    found = [(bar.kind, bar.start_ms, bar.ms) for bar in waterfall.bars(entry)]
    assert found == [
        ("failed", 0.0, 200.0),
        ("connect", 200.0, 100.0),
        ("wait", 300.0, 300.0),
        ("answer", 600.0, 400.0),
    ]

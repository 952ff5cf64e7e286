"""Topping up: codes, each once, and no guessing; what the account was given."""

from web_client import WebSite

from gateway.accounts import codes
from gateway.ledger.records import Code
from gateway.web import top_up
from gateway.web.site import REDEEMS_MAX

PAGE = "/dashboard/top-up"


async def a_code(site: WebSite, nano_usd: int = 5 * 10**9, expires_ms: int | None = None) -> str:
    accounts = site.running.gateway.accounts
    return (await accounts.create_codes(nano_usd, 1, expires_ms))[0][1]


async def test_a_code_is_redeemed_once_and_the_balance_is_told(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve", usd=0)
    text = await a_code(site, 5_000_105_000)
    await ada.get(PAGE)
    seen = await ada.send(PAGE, {"code": f"  {text} "})
    assert "$5.000105 added. Your balance is $15.000105." in seen.words
    assert f"Code {text[:9]}… – +$5.000105" in seen.words
    assert text not in seen.text
    assert "added" not in (await ada.get(PAGE)).words
    await eve.get(PAGE)
    again = await eve.send(PAGE, {"code": text})
    assert (again.status, "It has been redeemed before" in again.words) == (400, True)
    assert "Balance $0.00" in again.words


async def test_each_refusal_says_what_is_wrong(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get(PAGE)
    never, stranger = codes.mint(b"another secret", 5, 0, None)
    assert isinstance(never, Code)
    good = await a_code(site)
    typo = good[:-1] + ("A" if good[-1] != "A" else "B")
    for text, said in (
        ("", "check it for a typo"),
        (typo, "check it for a typo"),
        (stranger, "No such code was issued here"),
        ("<script>alert(1)</script>", "check it for a typo"),
    ):
        seen = await ada.send(PAGE, {"code": text})
        assert (seen.status, said in seen.words) == (400, True), seen
        assert "<script>alert" not in seen.text
    assert "Balance $10.00" in seen.words


async def test_codes_cannot_be_guessed_but_can_be_redeemed_by_the_dozen(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    await ada.get(PAGE)
    for _ in range(REDEEMS_MAX + 2):
        assert "added" in (await ada.send(PAGE, {"code": await a_code(site)})).words
    for _ in range(REDEEMS_MAX):
        assert (await ada.send(PAGE, {"code": "code-guess"})).status == 400
    good = await a_code(site)
    seen = await ada.send(PAGE, {"code": good})
    assert seen.status == 429
    assert "10 attempts were made: try again in 15 minutes" in seen.words
    assert 0 < int(seen.headers["Retry-After"]) <= 900
    await eve.get(PAGE)
    assert "added" in (await eve.send(PAGE, {"code": good})).words


async def test_what_was_given_is_listed_by_pages_newest_first_and_nobody_elses(
    site: WebSite,
) -> None:
    ada = await site.user("ada", usd=0)
    await site.user("eve", usd=77)
    accounts = site.running.gateway.accounts
    for number in range(top_up.ROWS):
        await accounts.credit("ada", (number + 1) * 10**9)
    await accounts.correct("ada", -2_500_000_000, "given <twice> on the 3rd")
    first = await ada.get(PAGE)
    assert "Correction given <twice> on the 3rd −$2.50" in first.words
    assert "<twice>" not in first.text
    assert ("+$25.00" in first.words, "+$1.00 " in first.words) == (True, False)
    assert "+$77.00" not in first.words
    older = first.text.split(f'href="{PAGE}?before=')[1].split('"')[0]
    second = await ada.get(f"{PAGE}?before={older}")
    assert "+$1.00" in second.words
    assert ("+$2.00" in second.words, "Older" in second.words) == (False, False)
    for odd in ("x", "-1", "9" * 30, "%00"):
        assert (await ada.get(f"{PAGE}?before={odd}")).status == 200


async def test_a_form_from_elsewhere_redeems_nothing(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    text = await a_code(site)
    foreign = (await ada.get(PAGE)).token
    await eve.get(PAGE)
    for token, origin in (("", None), (foreign, None), (None, "http://evil.example")):
        assert (await eve.send(PAGE, {"code": text}, token=token, origin=origin)).status == 403
        await eve.get(PAGE)
    await ada.get(PAGE)
    assert "added" in (await ada.send(PAGE, {"code": text})).words


async def test_the_command_for_the_operator_is_quoted_for_a_shell(site: WebSite) -> None:
    ada = await site.user("a;rm$HOME")
    assert "gateway credit 'a;rm$HOME' 10.00" in (await ada.get(PAGE)).words

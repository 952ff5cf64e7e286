"""The models that a user can call, as they are billed, and the caps on their calls."""

from pathlib import Path

import msgspec
from web_client import Visitor, WebSite, web_site

from gateway.accounts.changes import UserChanges
from gateway.web import models

MODELS = "/dashboard/models"
CAP = "/dashboard/models/cap"

OPENAI = """
[providers.openai]
format = "openai"
base_url = "http://127.0.0.1:9/v1"
keys = ["a key"]

[models.premium]
targets = ["openai/gpt-4o"]
"""


def rows_of(visitor: Visitor) -> list[str]:
    assert visitor.last is not None
    text = visitor.last.text.split('id="models"')[1].split("</table>")[0]
    return [one.split("</code>")[0] for one in text.split('<code class="model-name">')[1:]]


async def test_the_list_is_that_of_the_api_with_its_prices(tmp_path: Path) -> None:
    async with web_site(tmp_path, OPENAI) as site:
        ada = await site.user("ada")
        accounts = site.running.gateway.accounts
        await accounts.update_user("ada", UserChanges(rate_multiplier="1.5"))
        key = (await accounts.create_key("ada"))[1].encode()
        answer = await site.running.call("/v1/models", method="GET", key=key)
        told = {one["id"]: one for one in answer.json()["data"]}
        seen = await ada.get(MODELS)
        assert rows_of(ada) == list(told)
        assert rows_of(ada)[:2] == ["basic", "premium"]
        assert len(told) > 50
        assert told["gpt-4o"]["pricing"]["input_per_mtok"] == "3.75"
        assert "gpt-4o openai $3.75 $15.00 128,000 16,384" in seen.words
        assert "premium alias first openai/gpt-4o openai $3.75 $15.00" in seen.words
        assert "your multiplier of 1.5 is in them" in seen.words


async def test_a_search_finds_by_all_words_without_scripts(tmp_path: Path) -> None:
    async with web_site(tmp_path, OPENAI) as site:
        ada = await site.user("ada")
        await ada.get(f"{MODELS}?q=4o+MINI+chat")
        found = rows_of(ada)
        assert "gpt-4o-mini" in found
        assert all("4o" in one and "mini" in one for one in found)
        assert "No model has “<b>”" in (await ada.get(f"{MODELS}?q=%3Cb%3E")).words
        assert ada.last is not None
        assert "<b>" not in ada.last.text


async def test_a_cap_is_set_changed_lifted_and_holds_for_calls(site: WebSite) -> None:
    ada = await site.user("ada")
    gateway = site.running.gateway
    user = gateway.accounts.user_named("ada")
    key = (await gateway.accounts.create_key("ada"))[1].encode()
    body = msgspec.json.encode({"model": "basic", "messages": [], "max_tokens": 5000})

    form = await ada.get(f"{MODELS}?cap=basic")
    assert form.text.count('name="amount"') == 2  # the row's, and the one for scripts
    seen = await ada.send(CAP, {"model": "basic", "amount": "$0.000105", "q": ""})
    assert seen.path == MODELS
    assert "A call of basic may cost $0.000105 at most." in seen.words
    assert gateway.accounts.cap(user.id, "basic") == 105_000
    refused = await site.running.call("/v1/chat/completions", body, key=key)
    assert (refused.status, refused.json()["error"]["code"]) == (402, "call_cap_exceeded")

    seen = await ada.send(CAP, {"model": "basic", "amount": "2", "q": "bas ic"})
    assert seen.path == f"{MODELS}?q=bas+ic"
    assert gateway.accounts.cap(user.id, "basic") == 2 * 10**9
    await ada.get(MODELS)
    await ada.send(CAP, {"model": "basic", "amount": ""})
    assert gateway.accounts.cap(user.id, "basic") is None


async def test_a_wrong_cap_is_said_at_its_model(site: WebSite) -> None:
    ada = await site.user("ada")
    await ada.get(MODELS)
    for model, amount, said in (
        ("basic", "much", "US dollars such as 10.00"),
        ("basic", "0", "Above zero"),
        ("basic", "-1", "US dollars such as 10.00"),
        ("basic", "1" * 30, "is above"),
        ("<no such>", "1", "There is no model '<no such>' here"),
        ("", "1", "There is no model '' here"),
    ):
        seen = await ada.send(CAP, {"model": model, "amount": amount})
        assert (seen.status, said.lower() in seen.words.lower()) == (400, True), (said, seen)
        assert f'value="{amount}"' in seen.text or not model
        assert "<no such>" not in seen.text
    assert site.running.gateway.accounts.caps("ada") == []


async def test_caps_of_names_that_are_not_listed_are_shown_and_bounded(
    site: WebSite,
) -> None:
    ada = await site.user("ada")
    accounts = site.running.gateway.accounts
    for number in range(models.CAPS_MAX):
        await accounts.set_cap("ada", f"gone-{number}", 1000)
    seen = await ada.get(MODELS)
    assert "Caps on other names" in seen.words
    assert "gone-7 $0.000001 change" in seen.words
    seen = await ada.send(CAP, {"model": "basic", "amount": "1"})
    assert seen.status == 400
    assert "lift one of them" in seen.words
    await ada.send(CAP, {"model": "gone-7", "amount": ""})
    assert (await ada.send(CAP, {"model": "basic", "amount": "1"})).status == 200


async def test_a_cap_is_ones_own_and_no_form_from_elsewhere_sets_it(site: WebSite) -> None:
    ada, eve = await site.user("ada"), await site.user("eve")
    accounts = site.running.gateway.accounts
    foreign = (await ada.get(MODELS)).token
    await eve.get(MODELS)
    for token, origin in (("", None), (foreign, None), (None, "http://evil.example")):
        seen = await eve.send(CAP, {"model": "basic", "amount": "1"}, token=token, origin=origin)
        assert seen.status == 403
        await eve.get(MODELS)
    await eve.send(CAP, {"model": "basic", "amount": "1", "user": "ada"})
    assert accounts.caps("ada") == []
    assert [cap.model for cap in accounts.caps("eve")] == ["basic"]
    assert "$1.00 change" not in (await ada.get(MODELS)).words

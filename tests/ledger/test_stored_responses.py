"""Who made a response that a provider stores: known as soon as its maker has the answer."""

import msgspec
import pytest
from ledger_building import an_entry, an_opening, finished, open_ledger

from gateway.ledger.entry import Entry
from gateway.ledger.writer import Durability, Ledger


def a_response(response_id: str | None, user_id: int = 1, *, billed: bool = True) -> Entry:
    opening = msgspec.structs.replace(an_opening(user_id), format="openai_responses")
    entry = an_entry(opening, billed=billed)
    entry.response_id = response_id
    entry.provider = "openai"
    return entry


@pytest.mark.parametrize("durability", ["full", "relaxed"])
async def test_the_maker_and_the_provider_are_known_and_outlive_a_restart(
    path: str, durability: Durability
) -> None:
    ledger = await open_ledger(path, durability)
    await finished(ledger, a_response("resp_1", 1), a_response("resp_2", 2))
    assert await ledger.state_owner("resp_1") == ("user:1", "openai")
    await ledger.close()
    again = await open_ledger(path)
    assert await again.state_owner("resp_2") == ("user:2", "openai")
    await again.close()


async def test_a_response_that_no_gateway_key_made_is_nobody_s(ledger: Ledger) -> None:
    chat = an_entry(an_opening())
    chat.response_id = "chatcmpl-1"
    await finished(ledger, chat, a_response("resp_own", billed=False), a_response(None))
    for response_id in ("chatcmpl-1", "resp_own", "resp_unknown", ""):
        assert await ledger.state_owner(response_id) is None


async def test_an_id_that_comes_twice_stays_its_first_maker_s(ledger: Ledger) -> None:
    await finished(ledger, a_response("resp_1", 1))
    await finished(ledger, a_response("resp_1", 2), a_response("resp_3", 2))
    assert await ledger.state_owner("resp_1") == ("user:1", "openai")
    assert await ledger.state_owner("resp_3") == ("user:2", "openai")


async def test_an_id_that_is_no_proper_text_costs_no_receipt(ledger: Ledger) -> None:
    odd = a_response("resp_\ud800")
    await finished(ledger, odd, a_response("resp_4"))
    assert await ledger.receipt(odd.opening.id, None) is not None
    assert await ledger.state_owner("resp_4") == ("user:1", "openai")

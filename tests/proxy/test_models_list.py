"""`GET /v1/models`: what a caller can call, at the price that this caller will be charged."""

from pathlib import Path
from typing import Any

import msgspec
from harness import OWN_KEY, Running, answering, gateway_before, reply, scenario

from gateway.accounts.changes import UserChanges
from gateway.ledger.records import ModelSettings

CHAT = b'{"model":"%b","messages":[{"role":"user","content":"hi"}],"max_tokens":200}'
USAGE = b'{"id":"c","usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'
ALIAS = '[models.premium]\ntargets = ["openai/gpt-4o", "anthropic/claude-opus-4-5"]'


async def listed(gateway: Running, key: bytes = OWN_KEY) -> dict[str, dict[str, Any]]:
    answer = await gateway.call("/v1/models", method="GET", key=key)
    assert answer.status == 200
    return {one["id"]: one for one in answer.json()["data"]}


def per_mtok(one: dict[str, Any]) -> tuple[str, str]:
    return one["pricing"]["input_per_mtok"], one["pricing"]["output_per_mtok"]


@scenario
async def test_the_price_that_is_listed_is_the_price_that_is_charged(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE)), more=ALIAS) as (gateway, _):
        key = await gateway.key("somebody")
        await gateway.gateway.accounts.update_user("somebody", UserChanges(rate_multiplier="1.2"))
        settings = gateway.gateway.settings
        price = {"input": "3", "output": "12"}
        await settings.set_model(ModelSettings("openai", "gpt-4o", multiplier="1.5", price=price))
        await settings.set_model(
            ModelSettings("openai", "llama3", multiplier="2", price={"input": "1"})
        )
        found = await listed(gateway, key)
        for name, expected in (
            ("gpt-4o", ("5.40", "21.60")),
            ("premium", ("5.40", "21.60")),
            ("gpt-4o-mini", ("0.18", "0.72")),
            ("openai/llama3", ("2.40", "0.00")),
        ):
            assert per_mtok(found[name]) == expected, name
            answer = await gateway.call("/v1/chat/completions", CHAT % name.encode(), key=key)
            cost = (await gateway.receipt(answer, key))["cost"]
            rates = [float(one) for one in expected]
            assert cost["nano_usd"] == round(1000 * 1000 * rates[0] + 200 * 1000 * rates[1]), name
            assert cost["price_version"] == found[name]["pricing"]["version"]


@scenario
async def test_a_disabled_model_is_neither_listed_nor_called(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, upstream):
        key = await gateway.key()
        settings = gateway.gateway.settings
        await settings.set_model(ModelSettings("openai", "gpt-4o", enabled=False))
        assert "gpt-4o" not in await listed(gateway, key)
        shown = await gateway.call("/v1/models/gpt-4o", method="GET", key=key)
        assert shown.status == 404
        answer = await gateway.call("/v1/chat/completions", CHAT % b"gpt-4o", key=key)
        assert answer.status == 404
        assert answer.json()["error"]["message"] == "Model gpt-4o is disabled"
        assert not upstream.calls
        await settings.remove_model("openai", "gpt-4o")
        assert "gpt-4o" in await listed(gateway, key)
        answer = await gateway.call("/v1/chat/completions", CHAT % b"gpt-4o", key=key)
        assert answer.status == 200


@scenario
async def test_callers_with_their_own_key_see_list_prices(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, _):
        settings = ModelSettings("openai", "gpt-4o", multiplier="3")
        await gateway.gateway.settings.set_model(settings)
        assert per_mtok((await listed(gateway))["gpt-4o"]) == ("2.50", "10.00")
        settings = msgspec.structs.replace(settings, enabled=False)
        await gateway.gateway.settings.set_model(settings)
        assert "gpt-4o" in await listed(gateway)

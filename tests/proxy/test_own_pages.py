"""The gateway's own endpoints: health, metrics, description, models, receipts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness import OWN_KEY, Answer, Call, answering, gateway_before, reply, scenario

from gateway.accounts.changes import KeySpec
from gateway.metrics import LABEL_SETS_MAX, OTHER, Counter, Histogram, Metrics

CHAT = b'{"model":"gpt-4o","messages":[]}'
USAGE = b'{"id":"c","usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'


@scenario
async def test_health_needs_no_key_and_reaches_no_upstream(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, upstream):
        for target in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            for method in ("GET", "HEAD"):
                answer = await gateway.call(target, method=method, key=b"")
                assert answer.status == 200, (method, target)
                assert bool(answer.body) == (method == "GET")
                assert answer.get(b"server") == b"gateway"
        ready = (await gateway.call("/readyz", method="GET", key=b"")).json()
        assert ready["status"] == "ready"
        assert ready["providers"] == {"openai": True, "anthropic": True, "google": True}
        assert ready["ledger_writable"] is True
        assert not upstream.calls


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/healthz/", 404),
    ],
)
@scenario
async def test_pages_refuse_in_json(method: str, target: str, status: int, tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        answer = await gateway.call(target, method=method)
        assert answer.status == status
        assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed")
        if status == 405:
            assert answer.get(b"allow") == b"GET, HEAD"


@scenario
async def test_the_description_is_openapi_and_every_reference_in_it_resolves(
    tmp_path: Path,
) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        found = (await gateway.call("/openapi.json", method="GET", key=b"")).json()
    assert found["openapi"].startswith("3.")
    assert {"title", "version"} <= set(found["info"])
    assert found["servers"][0]["url"] == "http://gateway.test"
    operations = 0
    for path, item in found["paths"].items():
        assert path.startswith("/")
        names = {part[1:-1] for part in path.replace(":", "/").split("/") if part[:1] == "{"}
        for method, operation in item.items():
            if method == "parameters":
                continue
            assert method in ("get", "post", "put", "patch", "delete", "head", "options")
            assert operation["responses"], path
            operations += 1
            described = {
                one["name"]
                for one in [*operation.get("parameters", ()), *item.get("parameters", ())]
                if one.get("in") == "path"
            }
            assert described == names, path
    assert operations > 12
    for wanted in ("/v1/chat/completions", "/v1/messages", "/v1/receipts/{id}", "/v1/models"):
        assert wanted in found["paths"]
    for reference in references(found):
        node: Any = found
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [one for item in node for one in references(item)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [one for item in node.values() for one in references(item)]
    return []


# --- metrics ----------------------------------------------------------------------------------


async def samples(gateway: Any) -> dict[str, float]:
    text = (await gateway.call("/metrics", method="GET", key=b"")).body.decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


@scenario
async def test_metrics_count_what_happened(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, _):
        key = await gateway.key()
        for _ in range(3):
            await gateway.call("/v1/chat/completions", CHAT, key=key)
        await gateway.call("/v1/chat/completions", CHAT)
        await gateway.call("/v1/chat/completions", CHAT, key=b"")
        await gateway.call("/v1/chat/completions", b"{}", key=key)
        found = await samples(gateway)
    requests = (
        'gateway_requests_total{endpoint="/v1/chat/completions",model="gpt-4o",'
        'provider="openai",status="200"}'
    )
    assert found[requests] == 4
    assert found['gateway_tokens_total{class="input",model="gpt-4o"}'] == 4000
    assert found['gateway_tokens_total{class="output",model="gpt-4o"}'] == 800
    assert found["gateway_cost_usd_total"] == pytest.approx(3 * (1000 * 2.5 + 200 * 10) / 1e6)
    assert found['gateway_rejections_total{code="invalid_api_key"}'] == 1
    assert found['gateway_rejections_total{code="invalid_request"}'] == 1
    assert found['gateway_upstream_attempts_total{outcome="succeeded",provider="openai"}'] == 4
    assert found["gateway_in_flight"] == 0
    assert found['gateway_provider_up{provider="openai"}'] == 1
    assert found["gateway_request_seconds_count"] == 5
    assert found['gateway_request_seconds_bucket{le="+Inf"}'] == 5
    assert 0 < found["gateway_overhead_seconds_sum"] < 5
    assert found["gateway_ledger_commit_seconds_count"] > 0


@scenario
async def test_metrics_do_not_grow_with_made_up_names(tmp_path: Path) -> None:
    made_up = 3000
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, _):
        await gateway.call("/v1/chat/completions", b'{"model":"made-up"}')
        await gateway.call("/v1/madeup/x", b'{"model":"made-up"}')
        before = set(await samples(gateway))
        client = await gateway.client()
        for number in range(made_up):
            target = "/v1/chat/completions" if number % 3 else f"/v1/{letters(number)}/x"
            body = b'{"model":"made-up-%d"}' % number
            answer = await client.request("POST", target, [(b"x-api-key", OWN_KEY)], body)
            assert answer.status == 200
        found = await samples(gateway)
        assert set(found) == before
        assert sum(v for k, v in found.items() if k.startswith("gateway_requests_total")) == (
            made_up + 2
        )
        assert not any("made" in name for name in found)


def letters(number: int) -> str:
    """A word of its own for each number."""
    return "madeup" + "".join(chr(97 + int(digit)) for digit in str(number))


@scenario
async def test_metrics_can_have_a_port_of_their_own(tmp_path: Path) -> None:
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    own = f"metrics_port = {port}"
    async with gateway_before(tmp_path, answering(reply()), server=own) as (gateway, _):
        assert (await gateway.call("/metrics", method="GET", key=b"")).status == 404
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"gateway_in_flight 0.0" in await reader.read()
        writer.close()


def test_a_counter_ends_in_other_when_its_label_sets_are_used_up() -> None:
    counter = Counter("c", "text", ("a", "b"))
    for number in range(LABEL_SETS_MAX + 500):
        counter.add(1, str(number), "x")
    (family,) = [counter.collect()]
    assert len(family.samples) == LABEL_SETS_MAX + 1
    last = next(one for one in family.samples if one.labels["a"] == OTHER)
    assert last.value == 500


def test_a_histogram_counts_cumulatively_and_bounds_are_inclusive() -> None:
    histogram = Histogram("h", "text", (0.1, 1))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(value)
    found = {one.labels.get("le", one.name): one.value for one in histogram.collect().samples}
    assert found["0.1"] == 2
    assert found["1.0"] == 4
    assert found["+Inf"] == 5
    assert found["h_sum"] == pytest.approx(8.65)


def test_nothing_counted_still_renders() -> None:
    assert b"gateway_in_flight 0.0" in Metrics().render()


# --- models -----------------------------------------------------------------------------------

ALIAS = '[models.premium]\ntargets = ["openai/gpt-4o", "anthropic/claude-opus-4-5"]'


@scenario
async def test_models_come_in_three_shapes(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), more=ALIAS) as (gateway, upstream):
        key = await gateway.key()
        bearer = [(b"Authorization", b"Bearer " + key)]
        plain = (await gateway.call("/v1/models", method="GET", key=key)).json()
        assert plain["object"] == "list"
        by_id = {one["id"]: one for one in plain["data"]}
        assert len(by_id) == len(plain["data"])
        assert {"premium", "gpt-4o", "claude-opus-4-5", "gemini-2.5-flash"} <= set(by_id)
        found = by_id["gpt-4o"]
        assert found["object"] == "model"
        assert found["context_length"] == 128_000
        assert found["pricing"]["input_per_mtok"] == "2.50"
        assert found["pricing"]["output_per_mtok"] == "10.00"
        assert by_id["premium"]["owned_by"] == "gateway"

        fields = [*bearer, (b"anthropic-version", b"2023-06-01")]
        theirs = (
            await gateway.call("/v1/models?limit=3", method="GET", key=b"", fields=fields)
        ).json()
        assert set(theirs) == {"data", "has_more", "first_id", "last_id"}
        assert len(theirs["data"]) == 3
        assert theirs["has_more"] is True
        assert theirs["last_id"] == theirs["data"][-1]["id"]
        assert {"type", "id", "display_name", "created_at", "lifecycle"} < set(theirs["data"][0])

        gemini = (await gateway.call("/v1beta/models?pageSize=2", method="GET", key=key)).json()
        assert [one["name"][:7] for one in gemini["models"]] == ["models/"] * 2
        assert "generateContent" in gemini["models"][0]["supportedGenerationMethods"]
        following = await gateway.call(
            f"/v1beta/models?pageSize=2&pageToken={gemini['nextPageToken']}", method="GET", key=key
        )
        assert not {one["name"] for one in following.json()["models"]} & {
            one["name"] for one in gemini["models"]
        }
        assert not upstream.calls


@scenario
async def test_every_page_of_the_anthropic_list_is_reached_once(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply())) as (gateway, _):
        fields = [(b"x-api-key", b"own"), (b"anthropic-version", b"2023-06-01")]
        seen: list[str] = []
        after = ""
        while True:
            page = await gateway.call(
                f"/v1/models?limit=7{after}", method="GET", key=b"", fields=fields
            )
            data = page.json()["data"]
            seen += [one["id"] for one in data]
            if not page.json()["has_more"]:
                break
            after = f"&after_id={page.json()['last_id']}"
        assert len(seen) == len(set(seen)) > 7
        assert all("claude" in one for one in seen)


@scenario
async def test_one_model_is_shown_by_its_name(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply()), more=ALIAS) as (gateway, _):
        key = await gateway.key()
        for target, name in (
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/api/v1/models/premium", "premium"),
            ("/v1/v1/models/gpt-4o", "gpt-4o"),
        ):
            assert (await gateway.call(target, method="GET", key=key)).json()["id"] == name
        shown = await gateway.call("/v1beta/models/gemini-2.5-flash", method="GET", key=key)
        assert shown.json()["name"] == "models/gemini-2.5-flash"
        missing = await gateway.call("/v1/models/nothing", method="GET", key=key)
        assert missing.status == 404
        assert (await gateway.call("/v1/models", method="GET", key=b"")).status == 401
        assert (await gateway.call("/v1/models/gpt-4o", method="GET", key=b"gw-x")).status == 401


@scenario
async def test_a_key_limited_to_models_sees_and_calls_those_alone(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE)), more=ALIAS) as (gateway, upstream):
        key = await gateway.key("limited", KeySpec(models=("premium",)))
        listed = (await gateway.call("/v1/models", method="GET", key=key)).json()
        assert [one["id"] for one in listed["data"]] == ["premium"]
        refused = await gateway.call("/v1/chat/completions", CHAT, key=key)
        assert refused.status == 403
        assert refused.json()["error"]["code"] == "model_not_allowed"
        assert not upstream.calls
        allowed = await gateway.call("/v1/chat/completions", b'{"model":"premium"}', key=key)
        assert allowed.status == 200


# --- receipts ---------------------------------------------------------------------------------


@scenario
async def test_a_receipt_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, _):
        mine, also_mine = await gateway.key("me"), await gateway.key("me")
        other = await gateway.key("other")
        for made_with, may, may_not in (
            (mine, [mine, also_mine], [other, OWN_KEY, b"sk-another"]),
            (OWN_KEY, [OWN_KEY], [mine, other, b"sk-another", OWN_KEY + b"x"]),
        ):
            answer = await gateway.call("/v1/chat/completions", CHAT, key=made_with)
            target = answer.get(b"x-aibadgr-receipt-url")
            assert target is not None
            for key in may:
                found = await gateway.call(target.decode(), method="GET", key=key)
                assert found.status == 200
                assert found.json()["id"] == answer.receipt_id
                assert found.json()["cost"]["billed"] is (made_with is mine)
            for key in may_not:
                hidden = await gateway.call(target.decode(), method="GET", key=key)
                assert hidden.status == 404
                assert hidden.json()["error"]["code"] == "not_found"
            assert (await gateway.call(target.decode(), method="GET", key=b"")).status == 401
        for name in ("nothing", "0" * 36, answer.receipt_id[:-1] + "!"):
            missing = await gateway.call(f"/v1/receipts/{name}", method="GET", key=mine)
            assert missing.status == 404


@scenario
async def test_an_own_key_is_the_same_caller_in_every_slot(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, _):
        answer = await gateway.call("/v1/chat/completions", CHAT)
        target = f"/v1/receipts/{answer.receipt_id}"
        for slot in (b"x-api-key", b"api-key", b"x-goog-api-key"):
            found = await gateway.call(target, method="GET", key=b"", fields=[(slot, OWN_KEY)])
            assert found.status == 200
        found = await gateway.call(f"{target}?key={OWN_KEY.decode()}", method="GET", key=b"")
        assert found.status == 200


@scenario
async def test_receipts_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        status = 400 if b"bad" in call.body else 200
        await call.send(reply(USAGE, status=status))

    async with gateway_before(tmp_path, script) as (gateway, _):
        made: list[str] = []
        for number in range(7):
            body = b'{"model":"%b"}' % (b"gpt-bad" if number == 3 else b"gpt-%d" % (number % 2))
            made.insert(0, (await gateway.call("/v1/chat/completions", body)).receipt_id)
        await gateway.call("/v1/chat/completions", CHAT, key=b"sk-somebody-else")

        async def listed(query: str) -> Answer:
            return await gateway.call(f"/v1/receipts{query}", method="GET")

        whole = (await listed("")).json()
        assert [one["id"] for one in whole["data"]] == made
        assert whole["has_more"] is False
        first = (await listed("?limit=3")).json()
        assert [one["id"] for one in first["data"]] == made[:3]
        assert first["has_more"] is True
        second = (await listed(f"?limit=3&after={first['last_id']}")).json()
        assert [one["id"] for one in second["data"]] == made[3:6]
        failed = (await listed("?status=failed")).json()
        assert [one["id"] for one in failed["data"]] == [made[3]]
        named = (await listed("?model=gpt-0")).json()
        assert [one["id"] for one in named["data"]] == made[::2]
        for bad in ("?limit=0", "?limit=101", "?limit=x", "?after=x", "?status=odd"):
            refused = await listed(bad)
            assert refused.status == 400
            assert refused.json()["error"]["param"] == bad[1:].split("=")[0]
        assert (await gateway.call("/v1/receipts", method="GET", key=b"")).status == 401


@scenario
async def test_a_relaxed_receipt_is_readable_at_once(tmp_path: Path) -> None:
    async with gateway_before(
        tmp_path, answering(reply(USAGE)), store='durability = "relaxed"'
    ) as (gateway, _):
        key = await gateway.key()
        for _ in range(20):
            answer = await gateway.call("/v1/chat/completions", CHAT, key=key)
            receipt = await gateway.receipt(answer, key)
            assert receipt["status"] == "succeeded"
            assert receipt["cost"]["nano_usd"] == 1000 * 2500 + 200 * 10_000
            assert receipt["cost"]["amount"] == "0.0045"
        listed = await gateway.call("/v1/receipts", method="GET", key=key)
        assert len(listed.json()["data"]) == 20


@scenario
async def test_a_ledger_that_cannot_write_refuses_before_any_upstream(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, answering(reply(USAGE))) as (gateway, upstream):
        key = await gateway.key()
        client = await gateway.client()
        own = [(b"x-api-key", key)]
        assert (await client.request("POST", "/v1/chat/completions", own, CHAT)).status == 200
        ledger = gateway.gateway.ledger
        ledger._set_writable(False)
        for body in (CHAT, b'{"model":"gpt-4o","stream":true}'):
            answer = await client.request("POST", "/v1/chat/completions", own, body)
            assert answer.status == 503
            assert answer.json()["error"]["code"] == "ledger_unavailable"
            assert answer.get(b"retry-after") == b"5"
        ready = await client.request("GET", "/readyz")
        assert ready.status == 503
        assert ready.json()["ledger_writable"] is False
        assert len(upstream.calls) == 1
        ledger._set_writable(True)
        assert (await client.request("POST", "/v1/chat/completions", own, CHAT)).status == 200

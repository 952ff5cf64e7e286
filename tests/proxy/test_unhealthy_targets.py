"""Targets that fail, rest, are paused or slow, as clients and upstreams see it from outside.

Providers `a`, `b` and `c` are three paths of one upstream. The gateway's clock is moved by hand
where a rest or an open breaker has to come to its end.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from harness import Answer, Call, Running, Upstream, gateway_before, reply, scenario

from gateway.accounts.changes import KeySpec
from gateway.ledger import money
from gateway.ledger.catalog import Catalog
from gateway.proxy.health import PAUSED_RETRY_SECONDS

WIDE = KeySpec(rpm=10**9, tpm=10**12, concurrent=10**6)
CHAT = b'{"model":"any","messages":[],"max_tokens":10}'
CHATS = "/v1/chat/completions"
MODELS = {"a": "gpt-4o-mini", "b": "gpt-4o", "c": "gpt-4.1"}


class Clock:
    """The gateway's clock: the real one and what it was moved on by."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.moved_s


class Site:
    """A running gateway with three providers, its upstream, its clock, and a key."""

    def __init__(self, running: Running, upstream: Upstream, clock: Clock, key: bytes) -> None:
        self.running = running
        self.upstream = upstream
        self.clock = clock
        self.key = key

    async def ask(self, body: bytes = CHAT, *, key: bytes | None = None) -> Answer:
        return await self.running.call(CHATS, body, key=key or self.key)

    async def attempts(self, answer: Answer) -> list[tuple[str, str, int | None]]:
        route = (await self.running.receipt(answer, self.key))["route"]
        return [(one["provider"], one["outcome"], one["status"]) for one in route["attempts"]]

    def asked(self) -> str:
        """Who was asked since the last look, in order: "aab"."""
        found = "".join(call.target[1] for call in self.upstream.calls)
        self.upstream.calls.clear()
        return found

    def went_with(self) -> list[str]:
        """The provider keys of the requests since the last look."""
        found = [(call.get(b"authorization") or b"").decode() for call in self.upstream.calls]
        self.upstream.calls.clear()
        return [one.removeprefix("Bearer ") for one in found]


Behaviour = Callable[[Call], Awaitable[None]]


async def answers(call: Call) -> None:
    body = {"id": call.target[1], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    await call.send(reply(msgspec.json.encode(body)))


def says(status: int, *fields: tuple[bytes, bytes]) -> Behaviour:
    async def script(call: Call) -> None:
        await call.send(reply(b'{"error":{"message":"no"}}', status=status, fields=fields))

    return script


async def is_silent(call: Call) -> None:
    await call.gone(30)


async def garbles(call: Call) -> None:
    await call.send(b"220 mail ready\r\n\r\n")


async def is_no_json(call: Call) -> None:
    await call.send(reply(b"<html>maintenance</html>"))


@contextlib.asynccontextmanager
async def site(
    directory: Path,
    does: dict[str, Behaviour],
    *,
    targets: str = "abc",
    model: str = "",
    keys: int = 1,
    upstream: str = "",
) -> AsyncIterator[Site]:
    """`does` says what each provider answers, and can be changed; who is not in it, answers."""

    async def script(call: Call) -> None:
        await does.get(call.target[1], answers)(call)

    more = ""
    for name in "abc":
        told = [f"{name}-{index}" for index in range(keys)]
        more += f'[providers.{name}]\nformat = "openai"\ncatalog = "openai"\n'
        more += f'base_url = "{{url}}/{name}"\nkeys = {told}\n'
    route = [f"{name}/{MODELS[name]}" for name in targets]
    more += f"[models.any]\ntargets = {route}\n{model}\n"
    async with gateway_before(directory, script, upstream=upstream, more=more) as (running, behind):
        clock = Clock()
        running.gateway.services.time = clock
        yield Site(running, behind, clock, await running.key("caller", WIDE))


# --- the deadline -----------------------------------------------------------------------------


@scenario
async def test_one_deadline_bounds_all_attempts_together(tmp_path: Path) -> None:
    stalls: dict[str, Behaviour] = dict.fromkeys("abc", is_silent)
    limits = "first_byte_seconds = 0.4\ndeadline_seconds = 0.7"
    async with site(tmp_path, stalls, upstream=limits) as it:
        answer = await it.ask()
        assert answer.status == 504
        assert answer.json()["error"]["code"] == "upstream_timeout"
        assert "c" not in it.asked()
        receipt = await it.running.receipt(answer, it.key)
        assert receipt["failure"]["stage"] == "upstream_timeout"
        assert receipt["timing"]["total_ms"] < 700 + 2 * 250 + 200  # two sweeps, and a slow machine
        assert receipt["cost"]["nano_usd"] == 0


# --- breakers ---------------------------------------------------------------------------------

BREAKER = "breaker_failures = 3\nbreaker_seconds = 5"


@pytest.mark.parametrize("fails", [says(500), says(408), garbles, is_no_json])
@scenario
async def test_a_target_that_keeps_failing_is_passed_over(fails: Behaviour, tmp_path: Path) -> None:
    async with site(tmp_path, {"a": fails}, upstream=BREAKER) as it:
        for _ in range(3):
            await it.ask()
        it.asked()
        answer = await it.ask()
        assert answer.json()["id"] == "b"
        assert it.asked() == "b"
        assert await it.attempts(answer) == [("b", "succeeded", 200)]


@scenario
async def test_one_call_probes_a_target_whose_time_is_up_and_others_do_not(tmp_path: Path) -> None:
    going_on, probed = asyncio.Event(), asyncio.Event()

    async def holds(call: Call) -> None:
        probed.set()
        await going_on.wait()
        await answers(call)

    does: dict[str, Behaviour] = {"a": says(500)}
    async with site(tmp_path, does, upstream=BREAKER) as it:
        for _ in range(3):
            await it.ask()
        assert it.asked() == "ab" * 3
        it.clock.moved_s += 4.0
        await it.ask()
        assert it.asked() == "b"  # not yet
        it.clock.moved_s += 1.5
        does["a"] = holds
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(it.ask())
            await probed.wait()
            others = await asyncio.gather(*(it.ask() for _ in range(5)))
            assert [one.json()["id"] for one in others] == ["b"] * 5
            assert Counter(it.asked()) == {"a": 1, "b": 5}
            going_on.set()
        assert probe.result().json()["id"] == "a"
        assert (await it.ask()).json()["id"] == "a"  # and so do all, from then on
        assert it.asked() == "a"


@scenario
async def test_a_probe_that_fails_is_answered_elsewhere_and_doubles_the_wait(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, {"a": says(503)}, upstream=BREAKER) as it:
        for _ in range(3):
            await it.ask()
        it.asked()
        it.clock.moved_s += 5.5
        answer = await it.ask()
        assert answer.json()["id"] == "b"
        assert await it.attempts(answer) == [
            ("a", "upstream_status", 503),
            ("b", "succeeded", 200),
        ]
        assert it.asked() == "ab"
        it.clock.moved_s += 5.5
        await it.ask()
        assert it.asked() == "b"
        it.clock.moved_s += 5.0
        await it.ask()
        assert it.asked() == "ab"


@scenario
async def test_an_open_target_is_tried_all_the_same_where_there_is_no_other(tmp_path: Path) -> None:
    does: dict[str, Behaviour] = {"a": says(500)}
    async with site(tmp_path, does, targets="a", upstream=BREAKER) as it:
        for _ in range(5):
            assert (await it.ask()).status == 500
        assert it.asked() == "a" * 5
        del does["a"]
        assert (await it.ask()).status == 200


# --- keys -------------------------------------------------------------------------------------


def refusing(refused: dict[str, Behaviour]) -> Behaviour:
    """Answers, but for requests with one of these provider keys."""

    async def script(call: Call) -> None:
        key = (call.get(b"authorization") or b"").decode().removeprefix("Bearer ")
        await refused.get(key, answers)(call)

    return script


@scenario
async def test_a_key_that_got_429_rests_and_the_next_one_is_tried_at_once(tmp_path: Path) -> None:
    slow_down = refusing({"a-0": says(429, (b"retry-after", b"20"))})
    async with site(tmp_path, {"a": slow_down}, keys=3) as it:
        answer = await it.ask()
        assert answer.json()["id"] == "a"
        assert it.went_with() == ["a-0", "a-1"]
        assert await it.attempts(answer) == [("a", "upstream_status", 429), ("a", "succeeded", 200)]
        for _ in range(4):
            await it.ask()
        assert it.went_with() == ["a-2", "a-1", "a-2", "a-1"]
        it.clock.moved_s += 21.0
        assert (await it.ask()).status == 200
        assert (await it.ask()).status == 200
        assert "a-0" in it.went_with()


@scenario
async def test_when_all_keys_rest_the_client_is_told_when_the_first_one_is_back(
    tmp_path: Path,
) -> None:
    rests = refusing(
        {
            "a-0": says(429, (b"retry-after", b"40")),
            "a-1": says(429, (b"retry-after-ms", b"7500"), (b"retry-after", b"8")),
        }
    )
    async with site(tmp_path, {"a": rests}, targets="a", keys=2) as it:
        first = await it.ask()
        assert first.status == 429  # the provider's own last word
        assert it.went_with() == ["a-0", "a-1"]
        refused = await it.ask()
        assert it.went_with() == []
        assert refused.status == 503
        assert refused.json()["error"]["code"] == "upstream_error"
        assert 7000 < int(refused.get(b"retry-after-ms") or 0) <= 7500
        assert refused.get(b"retry-after") == b"8"
        it.clock.moved_s += 7.6
        await it.ask()
        assert it.went_with() == ["a-1"]


@scenario
async def test_a_target_whose_keys_all_rest_is_passed_over(tmp_path: Path) -> None:
    async with site(tmp_path, {"a": says(429, (b"retry-after", b"30"))}, keys=2) as it:
        answer = await it.ask()
        assert it.went_with() == ["a-0", "a-1", "b-0"]
        assert [one[:2] for one in await it.attempts(answer)] == [
            ("a", "upstream_status"),
            ("a", "upstream_status"),
            ("b", "succeeded"),
        ]
        it.went_with()
        answer = await it.ask()
        assert it.asked() == "b"
        assert await it.attempts(answer) == [("b", "succeeded", 200)]


@scenario
async def test_a_key_that_got_401_is_set_aside_until_it_is_reinstated(tmp_path: Path) -> None:
    does: dict[str, Behaviour] = {"a": refusing({"a-1": says(401)})}
    async with site(tmp_path, does, targets="a", keys=2) as it:
        for _ in range(4):
            assert (await it.ask()).status == 200
        assert it.went_with().count("a-1") == 1
        it.clock.moved_s += 86_400.0
        for _ in range(4):
            await it.ask()
        assert "a-1" not in it.went_with()
        does["a"] = says(401)
        gone = await it.ask()
        assert gone.status == 502
        assert it.went_with() == ["a-0"]
        none = await it.ask()
        assert it.went_with() == []
        assert none.status == 503
        error = none.json()["error"]
        assert error["code"] == "no_active_api_keys"
        assert error["message"] == "No active API keys for provider a"
        del does["a"]
        it.running.gateway.services.health.reinstate("a")
        for _ in range(2):
            assert (await it.ask()).status == 200
        assert sorted(it.went_with()) == ["a-0", "a-1"]


@scenario
async def test_a_key_that_got_403_is_set_aside_for_that_model_alone(tmp_path: Path) -> None:
    other = b'{"model":"a/gpt-4o","max_tokens":10}'

    async def forbids(call: Call) -> None:
        if call.get(b"authorization") == b"Bearer a-0" and b"gpt-4o-mini" in call.body:
            await says(403)(call)
        else:
            await answers(call)

    async with site(tmp_path, {"a": forbids}, targets="a", keys=2) as it:
        for _ in range(3):
            assert (await it.ask()).status == 200
        assert it.went_with().count("a-0") == 1
        for _ in range(4):
            assert (await it.ask(other)).status == 200
        assert it.went_with().count("a-0") == 2


@scenario
async def test_a_stale_connection_is_tried_again_with_the_same_key(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()

    async def goes_stale(call: Call) -> None:
        seen[call.connection] += 1
        if seen[call.connection] > 1:
            call.close()
        else:
            await answers(call)

    async with site(tmp_path, {"a": goes_stale}, keys=3) as it:
        await it.ask()
        answer = await it.ask()
        assert answer.json()["id"] == "a"
        assert it.went_with() == ["a-0", "a-1", "a-1"]
        assert await it.attempts(answer) == [("a", "succeeded", 200)]


@scenario
async def test_a_refusal_behind_a_stale_connection_still_goes_to_the_next_key(
    tmp_path: Path,
) -> None:
    seen: Counter[int] = Counter()

    async def goes_stale(call: Call) -> None:
        seen[call.connection] += 1
        if call.get(b"authorization") != b"Bearer a-1":
            await answers(call)
        elif seen[call.connection] > 1:
            call.close()
        else:
            await says(429)(call)

    async with site(tmp_path, {"a": goes_stale}, keys=3) as it:
        await it.ask()
        answer = await it.ask()
        assert answer.json()["id"] == "a"
        assert it.went_with() == ["a-0", "a-1", "a-1", "a-2"]
        assert await it.attempts(answer) == [("a", "upstream_status", 429), ("a", "succeeded", 200)]


# --- strategies -------------------------------------------------------------------------------


@scenario
async def test_weights_share_a_thousand_calls(tmp_path: Path) -> None:
    weighted = 'strategy = "weighted"\nweights = [5, 3, 2]'
    async with site(tmp_path, {}, model=weighted) as it:
        client = await it.running.client()
        fields = [(b"Authorization", b"Bearer " + it.key)]
        for _ in range(1000):
            assert (await client.request("POST", CHATS, fields, CHAT)).status == 200
        asked = it.asked()
        assert Counter(asked) == {"a": 500, "b": 300, "c": 200}
        # Evenly over time, too.
        assert Counter(asked[400:500]) == {"a": 50, "b": 30, "c": 20}


@scenario
async def test_weights_hold_where_every_call_needs_a_new_connection(tmp_path: Path) -> None:
    async def closes(call: Call) -> None:
        await answers(call)
        call.close()

    weighted = 'strategy = "weighted"\nweights = [1, 1]'
    does: dict[str, Behaviour] = dict.fromkeys("ab", closes)
    async with site(tmp_path, does, targets="ab", model=weighted) as it:
        client = await it.running.client()
        fields = [(b"Authorization", b"Bearer " + it.key)]
        for _ in range(40):
            assert (await client.request("POST", CHATS, fields, CHAT)).status == 200
        assert Counter(it.asked()) == {"a": 20, "b": 20}


@scenario
async def test_a_weighted_route_goes_on_to_its_other_targets(tmp_path: Path) -> None:
    weighted = 'strategy = "weighted"\nweights = [9, 1, 1]'
    async with site(tmp_path, {"a": says(500), "c": says(500)}, model=weighted) as it:
        answers = [await it.ask() for _ in range(20)]
        assert {answer.json()["id"] for answer in answers} == {"b"}


@scenario
async def test_latency_prefers_the_target_whose_first_byte_comes_sooner(tmp_path: Path) -> None:
    takes_s = {"a": 0.9, "b": 0.5, "c": 0.1}

    async def takes_its_time(call: Call) -> None:
        it.clock.moved_s += takes_s[call.target[1]]
        await answers(call)

    does: dict[str, Behaviour] = dict.fromkeys("abc", takes_its_time)
    async with site(tmp_path, does, model='strategy = "latency"') as it:
        for _ in range(3):
            await it.ask()
        assert sorted(it.asked()) == ["a", "b", "c"]  # each is measured once
        for _ in range(10):
            await it.ask()
        assert it.asked() == "c" * 10
        takes_s["c"] = 2.0
        for _ in range(10):
            await it.ask()
        assert it.asked().endswith("bbb")


# --- pauses -----------------------------------------------------------------------------------

PAUSED = {
    "/v1/chat/completions": (b'{"model":"gpt-4o","messages":[]}', "openai"),
    "/v1/messages": (
        b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[]}',
        "anthropic",
    ),
    "/v1beta/models/gemini-2.5-flash:generateContent": (b'{"contents":[]}', "google"),
}


@pytest.mark.parametrize("path", PAUSED)
@pytest.mark.parametrize("own", [False, True])
@scenario
async def test_a_paused_provider_is_429_for_every_caller_until_it_is_resumed(
    path: str, own: bool, tmp_path: Path
) -> None:
    body, provider = PAUSED[path]
    async with gateway_before(tmp_path, answers) as (gateway, upstream):
        key = b"sk-of-the-caller" if own else await gateway.key()
        await gateway.gateway.settings.pause(provider, "admin")
        answer = await gateway.call(path, body, key=key)
        assert upstream.calls == []
        assert answer.status == 429
        assert answer.json()["error"]["message"] == f"Provider {provider} is paused"
        assert answer.get(b"retry-after") == b"%d" % PAUSED_RETRY_SECONDS
        receipt = await gateway.receipt(answer, key)
        assert receipt["failure"] == {
            "stage": "routing",
            "code": "provider_paused",
            "message": f"Provider {provider} is paused",
        }
        await gateway.gateway.settings.resume(provider)
        assert (await gateway.call(path, body, key=key)).status == 200


@scenario
async def test_a_route_goes_round_a_paused_provider(tmp_path: Path) -> None:
    async with site(tmp_path, {}, targets="ab") as it:
        await it.running.gateway.settings.pause("a", "admin")
        assert (await it.ask()).json()["id"] == "b"
        await it.running.gateway.settings.pause("b", "admin")
        refused = await it.ask()
        assert refused.status == 429
        assert refused.json()["error"]["message"] == "Provider a is paused"
        await it.running.gateway.settings.resume("a")
        assert (await it.ask()).json()["id"] == "a"
        assert it.asked() == "ba"


# --- money ------------------------------------------------------------------------------------


@scenario
async def test_a_next_target_that_the_balance_cannot_pay_is_passed_over(tmp_path: Path) -> None:
    """What is held for the first target, the cheapest, is not enough for the others."""
    cheap, dear = (Catalog.load().find("openai", MODELS[name]) for name in "ab")
    assert cheap is not None
    assert dear is not None
    body = CHAT.replace(b'"max_tokens":10', b'"max_tokens":10000')
    per_token = cheap.price.output
    assert per_token
    credit = 2 * 10_000 * per_token // 10**6
    async with site(tmp_path, {"a": says(500)}) as it:
        poor = await it.running.key("poor", WIDE, credit)
        answer = await it.ask(body, key=poor)
        assert it.asked() == "a"
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "upstream_error"
        receipt = await it.running.receipt(answer, poor)
        assert [one["outcome"] for one in receipt["route"]["attempts"]] == [
            "upstream_status",
            "balance",
            "balance",
        ]
        accounts = it.running.gateway.accounts
        assert accounts.held("poor") == 0
        assert await accounts.balance("poor") == credit
        assert (await it.ask(body)).json()["id"] == "b"  # who can pay, gets it
        books = await it.running.gateway.ledger.read(money.check_books)
        assert books.wrong == []
        assert (
            books.charged
            == (1000 * (dear.price.input or 0) + 100 * (dear.price.output or 0)) // 10**6
        )

"""What SDKs make of the gateway's own refusals, by the rules that they retry by themselves.

At a limit they wait as long as they are told and then succeed; where money is missing they do not
ask again, and raise their error with the gateway's message and code. Each test has a user of its
own, so that the receipts are those of its calls alone.
"""

import itertools
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest
from anthropic import Anthropic
from client_site import Caller, Site, Watch
from google import genai
from google.genai import errors, types
from node_packages import ask
from openai import OpenAI

pytestmark = pytest.mark.clients

RPM = 30
"""So many calls at once, then one each two seconds: longer than any SDK waits by itself."""

TRIES = 3

RETRY_BY_ITSELF_S = 0.75
"""What SDKs wait at most before a first retry that nobody gave them a time for, and some more."""

_numbers = itertools.count()

Sdk = Callable[[Site, str, Watch, int], Callable[[], Any]]


def _openai(site: Site, key: str, watch: Watch, retries: int) -> OpenAI:
    http = openai.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    return OpenAI(base_url=f"{site.gateway}/v1", api_key=key, http_client=http, max_retries=retries)


def openai_chat(site: Site, key: str, watch: Watch, retries: int) -> Callable[[], Any]:
    sdk = _openai(site, key, watch, retries)

    def call() -> Any:
        with sdk:
            return sdk.chat.completions.create(
                model="premium", max_tokens=3000, messages=[{"role": "user", "content": "hello"}]
            )

    return call


def openai_chat_stream(site: Site, key: str, watch: Watch, retries: int) -> Callable[[], Any]:
    sdk = _openai(site, key, watch, retries)

    def call() -> Any:
        with sdk:
            return list(
                sdk.chat.completions.create(
                    model="premium",
                    max_tokens=3000,
                    messages=[{"role": "user", "content": "hello"}],
                    stream=True,
                )
            )

    return call


def openai_responses(site: Site, key: str, watch: Watch, retries: int) -> Callable[[], Any]:
    sdk = _openai(site, key, watch, retries)

    def call() -> Any:
        with sdk:
            return sdk.responses.create(model="premium", max_output_tokens=3000, input="hello")

    return call


def anthropic_messages(site: Site, key: str, watch: Watch, retries: int) -> Callable[[], Any]:
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [watch.see]})
    sdk = Anthropic(base_url=site.gateway, api_key=key, http_client=http, max_retries=retries)

    def call() -> Any:
        with sdk:
            return sdk.messages.create(
                model="premium", max_tokens=3000, messages=[{"role": "user", "content": "hello"}]
            )

    return call


def gemini(site: Site, key: str, watch: Watch, retries: int) -> Callable[[], Any]:
    """It does not retry by itself unless it is told to."""
    options = types.HttpOptions(
        base_url=site.gateway,
        client_args={"event_hooks": {"response": [watch.see]}},
        retry_options=types.HttpRetryOptions(attempts=retries + 1) if retries else None,
    )
    sdk = genai.Client(api_key=key, http_options=options)

    def call() -> Any:
        with sdk:
            return sdk.models.generate_content(
                model="premium",
                contents="hello",
                config=types.GenerateContentConfig(max_output_tokens=3000),
            )

    return call


RETRYING: list[Sdk] = [openai_chat, openai_chat_stream, openai_responses, anthropic_messages]
ALL: list[Sdk] = [*RETRYING, gemini]


class User(msgspec.Struct, frozen=True):
    """A user of one test, and a key of theirs."""

    name: str
    key: str

    @property
    def caller(self) -> Caller:
        return Caller("gateway_key", self.key)


def new_user(site: Site, *, usd: str = "100.00", rpm: int = 100_000, tpm: int = 10**9) -> User:
    name = f"refused-{next(_numbers)}"
    site.admin("/users", name=name)
    site.admin(f"/users/{name}/credits", amount=usd)
    key: str = site.admin("/keys", user=name, rpm=rpm, tpm=tpm)["key"]
    return User(name, key)


def exhaust(site: Site, key: str) -> int:
    """Use a key until its limit refuses it; how many calls it let pass."""
    body = {"model": "premium", "input": "hello"}
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {key}"}) as http:
        for count in range(2 * RPM):
            answer = http.post(f"{site.gateway}/v1/responses/input_tokens", json=body)
            if answer.status_code == 429:
                return count
            assert answer.status_code == 200, answer.text
    raise AssertionError("no limit")


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sdk", RETRYING)
def test_at_a_limit_the_package_waits_as_it_is_told_and_then_succeeds(site: Site, sdk: Sdk) -> None:
    user = new_user(site, rpm=RPM)
    for _ in range(TRIES):
        watch = Watch()
        call = sdk(site, user.key, watch, 2)
        exhaust(site, user.key)
        begun = time.monotonic()
        assert call()
        waited_s = time.monotonic() - begun
        refused = watch.answers[0].headers
        told_s = int(refused.get("retry-after-ms", "0")) / 1000
        if told_s > RETRY_BY_ITSELF_S:
            break  # else the machine was so slow that the limit was nearly over
    assert [answer.status for answer in watch.answers] == [429, 200]
    assert RETRY_BY_ITSELF_S < told_s <= 60 / RPM
    assert told_s <= int(refused["retry-after"]) < told_s + 1
    assert told_s <= waited_s
    met, told = site.receipts(user.key)[:2]
    assert met["status"] == "succeeded"
    assert (told["status"], told["http_status"]) == ("failed", 429)
    assert told["failure"] == {
        "stage": "rate_limit",
        "code": "rate_limit_exceeded",
        "message": f"Rate limit exceeded: {RPM} RPM",
    }
    assert told["cost"]["nano_usd"] == 0


@pytest.mark.parametrize("sdk", ALL)
def test_every_answer_says_where_its_key_stands(site: Site, watch: Watch, sdk: Sdk) -> None:
    user = new_user(site, rpm=40, tpm=50_000)
    sdk(site, user.key, watch, 0)()
    headers = watch.last.headers
    assert headers["x-ratelimit-limit-requests"] == "40"
    assert headers["x-ratelimit-remaining-requests"] == "39"
    assert headers["x-ratelimit-limit-tokens"] == "50000"
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 50_000
    for kind in ("requests", "tokens"):
        assert headers[f"x-ratelimit-reset-{kind}"].endswith("s")
    if sdk is anthropic_messages:
        for kind in ("requests", "tokens"):
            for what in ("limit", "remaining"):
                theirs = headers[f"anthropic-ratelimit-{kind}-{what}"]
                assert theirs == headers[f"x-ratelimit-{what}-{kind}"]
            reset = headers[f"anthropic-ratelimit-{kind}-reset"]
            at = time.mktime(time.strptime(reset, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
            assert -2 < at - time.time() < 62
    else:
        assert not [name for name in headers if name.startswith("anthropic-ratelimit")]


@pytest.mark.parametrize("sdk", ALL)
def test_a_refusal_at_a_limit_is_the_packages_own_error(site: Site, watch: Watch, sdk: Sdk) -> None:
    user = new_user(site, rpm=1)
    sdk(site, user.key, watch, 0)()
    error = refused(sdk(site, user.key, watch, 0))
    message = "Rate limit exceeded: 1 RPM"
    if isinstance(error, errors.ClientError):
        assert (error.code, error.status, error.message) == (429, "RESOURCE_EXHAUSTED", message)
        retry = error.details["error"]["details"][1]["retryDelay"]
        assert 50 < float(retry.removesuffix("s")) <= 60
    elif isinstance(error, anthropic.RateLimitError):
        assert isinstance(error.body, dict)
        assert error.body["error"] == {"type": "rate_limit_error", "message": message}
    else:
        assert isinstance(error, openai.RateLimitError)
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert isinstance(error.body, dict)
        assert error.body["message"] == message
    assert 50 < int(watch.last.headers["retry-after"]) <= 60


def refused(call: Callable[[], Any]) -> Exception:
    with pytest.raises(
        (openai.APIStatusError, anthropic.APIStatusError, errors.APIError)
    ) as caught:
        call()
    return caught.value


# --- money ------------------------------------------------------------------------------------


def check_unpaid(error: Exception, code: str, opens: str) -> None:
    """402 as each package shows it."""
    if isinstance(error, errors.ClientError):
        assert (error.code, error.status) == (402, "FAILED_PRECONDITION")
        assert (error.message or "").startswith(opens)
        assert error.details["error"]["details"][0]["reason"] == code.upper()
    elif isinstance(error, anthropic.APIStatusError):
        assert error.status_code == 402
        assert isinstance(error.body, dict)
        assert error.body["error"]["type"] == "billing_error"
        assert error.body["error"]["message"].startswith(opens)
    else:
        assert isinstance(error, openai.APIStatusError)
        assert (error.status_code, error.code) == (402, code)
        assert isinstance(error.body, dict)
        assert error.body["message"].startswith(opens)


@pytest.mark.parametrize("sdk", ALL)
def test_without_balance_the_package_asks_once_and_says_why(
    site: Site, watch: Watch, sdk: Sdk
) -> None:
    user = new_user(site, usd="0.000001")
    error = refused(sdk(site, user.key, watch, 5))
    check_unpaid(error, "insufficient_balance", "Insufficient credit balance: ")
    assert [answer.status for answer in watch.answers] == [402]
    (receipt,) = site.receipts(user.key)
    assert receipt["failure"]["stage"] == "balance"
    assert "top up or lower max_tokens" in receipt["failure"]["message"]
    assert receipt["route"]["attempts"] == []
    assert receipt["cost"]["nano_usd"] == 0
    site.admin(f"/users/{user.name}/credits", amount="1.00")
    assert sdk(site, user.key, watch, 0)()


@pytest.mark.parametrize("sdk", ALL)
def test_over_a_cap_the_package_asks_once_and_hears_what_would_fit(
    site: Site, watch: Watch, sdk: Sdk
) -> None:
    user = new_user(site)
    site.admin(f"/users/{user.name}/caps", model="premium", amount="0.01")
    error = refused(sdk(site, user.key, watch, 5))
    check_unpaid(error, "call_cap_exceeded", "This call of premium may cost up to $")
    assert [answer.status for answer in watch.answers] == [402]
    (receipt,) = site.receipts(user.key)
    assert "max_tokens of at most " in receipt["failure"]["message"]
    site.admin(f"/users/{user.name}/caps", model="premium", amount="1.00")
    assert sdk(site, user.key, watch, 0)()


# --- Node -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "call"), [("openai", "chat"), ("anthropic", "messages")])
def test_nodes_packages_wait_at_a_limit_and_do_not_where_money_is_missing(
    modules: Path, site: Site, client: str, call: str
) -> None:
    user = new_user(site, rpm=15)
    for _ in range(TRIES):
        before = len(site.receipts(user.key)) + exhaust(site, user.key) + 1
        said = ask(modules, site.gateway, user.key, "premium", client, call, retries=3)
        assert said["text"].startswith('You said: "')
        met, *refused = site.receipts(user.key)[:-before]
        if refused:
            break  # else Node took longer to start than the limit to be over
    # One wait was enough, so it was not one of the package's own.
    assert [receipt["http_status"] for receipt in (met, *refused)] == [200, 429]
    came, came_again = (datetime.fromisoformat(one["created_at"]) for one in (*refused, met))
    assert (came_again - came).total_seconds() > RETRY_BY_ITSELF_S

    poor = new_user(site, usd="0.000001")
    error = ask(modules, site.gateway, poor.key, "premium", client, call, retries=3)["error"]
    assert error["status"] == 402
    assert "Insufficient credit balance: " in error["message"]
    assert len(site.receipts(poor.key)) == 1

"""Plain `curl`: JSON, events, uploads, and a body that waits to be asked for."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import msgspec
import orjson
import pytest
from client_site import Caller, Site, Used, environment

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

CALL_S = 30
ASK = {"messages": [{"role": "user", "content": "Say hello"}]}
SAID = 'You said: "Say hello".'


class Got(msgspec.Struct, frozen=True):
    statuses: list[int]
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


def curl(*words: str, given: bytes = b"") -> Got:
    """Run `curl -i`; its heads (there may be a 100 before the last) and the body."""
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", str(CALL_S), *words],
        input=given,
        env=environment(),
        capture_output=True,
        timeout=CALL_S + 5,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    rest, statuses, head = done.stdout, [], b""
    while rest.startswith(b"HTTP/"):
        head, _, rest = rest.partition(b"\r\n\r\n")
        statuses.append(int(head.split()[1]))
    fields = [line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:]]
    return Got(statuses, httpx.Headers([(name, value) for name, value in fields]), rest)


def post(caller: Caller, url: str, body: Any, *words: str) -> Got:
    return curl(
        *("-H", f"Authorization: Bearer {caller.key}", "-H", "Content-Type: application/json"),
        *("--data-binary", "@-", *words, url),
        given=orjson.dumps(body),
    )


def chat_used(usage: dict[str, int]) -> Used:
    return Used(usage["prompt_tokens"], usage["completion_tokens"])


def test_json_is_answered_with_a_receipt_to_fetch(site: Site, caller: Caller) -> None:
    body = {"model": caller.model("openai"), **ASK}
    got = post(caller, f"{site.gateway}/v1/chat/completions", body)
    assert got.statuses == [200]
    assert got.json()["choices"][0]["message"]["content"].startswith(SAID)
    site.settled(got.headers, caller, chat_used(got.json()["usage"]), family="openai")
    url = f"{site.gateway}{got.headers['x-aibadgr-receipt-url']}"
    receipt = curl("-H", f"Authorization: Bearer {caller.key}", url)
    assert receipt.json()["id"] == got.headers["x-badgr-receipt-id"]
    assert curl(url).statuses == [401]
    stranger = "sk-of-a-stranger"
    assert curl("-H", f"Authorization: Bearer {stranger}", url).statuses == [404]


def test_events_come_unbuffered_and_end_properly(site: Site, caller: Caller) -> None:
    body = {
        "model": caller.model("openai"),
        "stream": True,
        "stream_options": {"include_usage": True},
        **ASK,
    }
    got = post(caller, f"{site.gateway}/v1/chat/completions", body, "-N")
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.headers["x-accel-buffering"] == "no"
    *events, done, nothing = got.body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    chunks = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks[:-1])
    assert text.startswith(SAID)
    used = chat_used(chunks[-1]["usage"])
    site.settled(got.headers, caller, used, family="openai", stream=True)


def test_the_same_bytes_come_from_the_gateway_as_from_the_provider(
    site: Site, caller: Caller
) -> None:
    def steady(body: bytes) -> bytes:
        """The bytes, with what is drawn anew for each answer blotted out."""
        body = re.sub(rb'"(id|created)":(\s*)("[^"]*"|\d+)', rb'"\1":\2*', body)
        return re.sub(rb'"obfuscation":"[^"]*"', b"", body)

    for extra in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        body = {"model": "gpt-4o", **ASK, **extra}
        ours = post(caller, f"{site.gateway}/v1/chat/completions", body)
        theirs = post(caller, f"{site.upstream}/v1/chat/completions", body)
        assert steady(ours.body) == steady(theirs.body)
        assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize(
    ("family", "path", "body"),
    [
        ("anthropic", "/v1/messages", {"max_tokens": 100, **ASK}),
        ("gemini", "/v1beta/models/{model}:generateContent", None),
        ("gemini", "/v1beta/models/{model}:streamGenerateContent?alt=sse", None),
        ("gemini", "/v1beta/models/{model}:streamGenerateContent", None),
    ],
)
def test_the_other_formats_answer_with_their_own_credentials(
    site: Site, caller: Caller, family: Any, path: str, body: Any
) -> None:
    model = caller.model(family)
    asked = {"model": model, **body} if body else {"contents": [{"parts": [{"text": "Say hello"}]}]}
    slot = "x-api-key" if family == "anthropic" else "x-goog-api-key"
    got = curl(
        *("-H", f"{slot}: {caller.key}", "-H", "anthropic-version: 2023-06-01"),
        *("-H", "Content-Type: application/json", "--data-binary", "@-"),
        site.gateway + path.format(model=model),
        given=orjson.dumps(asked),
    )
    assert got.statuses == [200]
    assert b"hello" in got.body
    receipt = site.receipt(got.headers, caller)
    assert receipt["status"] == "succeeded"
    assert receipt["usage"]["source"] == "reported"
    assert receipt["cost"]["nano_usd"] > 0
    assert receipt["cost"]["billed"] is caller.billed
    assert receipt["request"]["stream"] is ("stream" in path)


def test_a_key_in_the_query_is_taken_and_never_passed_on(site: Site, caller: Caller) -> None:
    model = caller.model("gemini")
    url = f"{site.gateway}/v1beta/models/{model}:generateContent?key={caller.key}"
    body = orjson.dumps({"contents": [{"parts": [{"text": "Say hello"}]}]})
    got = curl("-H", "Content-Type: application/json", "--data-binary", "@-", url, given=body)
    assert got.statuses == [200]
    assert site.receipt(got.headers, caller)["status"] == "succeeded"


def test_a_file_is_uploaded_as_a_form(site: Site, gateway_key: Caller, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"custom_id":"1"}\n' * 200_000)
    got = curl(
        *("-H", f"Authorization: Bearer {gateway_key.key}"),
        *("-F", "purpose=batch", "-F", f"file=@{path}"),
        f"{site.gateway}/v1/demo/files",
    )
    assert got.statuses[-1] == 200
    assert got.json()["bytes"] == path.stat().st_size == 3_600_000
    receipt = site.receipt(got.headers, gateway_key)
    assert (receipt["status"], receipt["route"]["provider"]) == ("succeeded", "demo")


def test_a_long_body_that_waits_to_be_asked_for_is_asked_for(site: Site, caller: Caller) -> None:
    long_text = "A line of a long letter. " * 60_000
    body = {
        "model": caller.model("openai"),
        "max_tokens": 20,
        "messages": [{"role": "user", "content": long_text}],
    }
    got = post(caller, f"{site.gateway}/v1/chat/completions", body, "-H", "Expect: 100-continue")
    assert got.statuses == [100, 200]
    usage = got.json()["usage"]
    assert usage["prompt_tokens"] > 100_000
    receipt = site.settled(got.headers, caller, chat_used(usage), family="openai")
    assert receipt["request"]["bytes"] == len(orjson.dumps(body)) > 1 << 20


def test_a_long_body_without_a_key_is_refused_before_it_is_sent(site: Site) -> None:
    got = curl(
        *("-H", "Content-Type: application/json", "-H", "Expect: 100-continue"),
        *("--data-binary", "@-", f"{site.gateway}/v1/chat/completions"),
        given=b'{"model":"premium","messages":[' + b" " * 2_000_000 + b"]}",
    )
    assert got.statuses == [401]
    assert got.json()["error"]["code"] == "invalid_api_key"


def test_a_body_that_is_no_json_is_refused_in_the_caller_s_format(
    site: Site, gateway_key: Caller
) -> None:
    got = curl(
        *("-H", f"Authorization: Bearer {gateway_key.key}"),
        *("-d", "{not json", f"{site.gateway}/v1/chat/completions"),
    )
    assert got.statuses == [400]
    assert got.json()["error"]["code"] == "invalid_request"
    assert site.receipt(got.headers, gateway_key)["failure"]["stage"] == "validation"


def test_head_and_the_models_list_answer(site: Site, caller: Caller) -> None:
    assert curl("-I", f"{site.gateway}/").statuses == [200]
    listed = curl("-H", f"x-api-key: {caller.key}", f"{site.gateway}/api/v1/models").json()
    assert listed["object"] == "list"
    assert "gpt-4o" in [one["id"] for one in listed["data"]]

"""The table of errors, row by row: every code, provoked in a running gateway, in every envelope.

`ROWS` has one entry for each code of `errors.CODES`; a code without one fails the first test. What
a row provokes is asked for in the OpenAI, Anthropic and Gemini format, plain and streamed, and the
whole envelope is compared. Errors that can befall a stream that has begun are in `MIDSTREAM`.
"""

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from harness import Answer, Call, Running, chunk, gateway_before, reply, scenario, until
from streamed_calls import STREAMS

from gateway.accounts.changes import KeySpec
from gateway.config import Family
from gateway.errors import CODES
from gateway.limits.limiter import Limiter

FAMILIES: tuple[Family, ...] = get_args(Family)
BODY_BYTES_MAX = 4096
ADMIN_TOKEN = b"admin-token-of-these-tests"

MODELS: dict[Family, str] = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
}

# As clients of each family know them, by HTTP status.
OPENAI_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota",
    403: "permission_error", 404: "invalid_request_error", 405: "invalid_request_error",
    409: "invalid_request_error", 413: "invalid_request_error", 422: "invalid_request_error",
    429: "rate_limit_error", 500: "server_error", 502: "server_error", 503: "server_error",
    504: "timeout_error",
}  # fmt: skip
ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error",
    403: "permission_error", 404: "not_found_error", 405: "invalid_request_error",
    409: "invalid_request_error", 413: "request_too_large", 422: "invalid_request_error",
    429: "rate_limit_error", 500: "api_error", 502: "api_error", 503: "overloaded_error",
    504: "timeout_error",
}  # fmt: skip
GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED", 409: "ABORTED",
    413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL",
    502: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class Case:
    """A running gateway, and one request to it in a family's format."""

    def __init__(self, running: Running, family: Family, stream: bool) -> None:
        self.running = running
        self.family = family
        self.stream = stream
        self.model = MODELS[family]

    @property
    def provider(self) -> str:
        return {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}[self.family]

    def of_provider(self, name: str) -> str:
        """The model at another provider of this family."""
        return f"{name}-{self.family}/{self.model}"

    def path(self, model: str) -> str:
        if self.family == "gemini":
            method = "streamGenerateContent" if self.stream else "generateContent"
            return f"/v1beta/models/{model.replace('/', '%2F')}:{method}"
        return {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[self.family]

    def body(self, model: str, max_tokens: int = 100) -> bytes:
        if self.family == "gemini":
            bound = {"maxOutputTokens": max_tokens}
            return msgspec.json.encode({"contents": [], "generationConfig": bound})
        return msgspec.json.encode(
            {"model": model, "messages": [], "max_tokens": max_tokens, "stream": self.stream}
        )

    async def ask(
        self,
        model: str = "",
        *,
        key: bytes | None = None,
        method: str = "POST",
        path: str = "",
        body: bytes | None = None,
    ) -> Answer:
        """One request with the header fields of the family's own clients."""
        model = model or self.model
        slot = {"openai": b"Authorization", "anthropic": b"x-api-key", "gemini": b"x-goog-api-key"}
        key = await self.key() if key is None else key
        fields = []
        if key:
            credential = b"Bearer " + key if self.family == "openai" else key
            fields.append((slot[self.family], credential))
        elif self.family == "gemini":
            fields.append((slot["gemini"], b""))
        if self.family == "anthropic":
            fields.append((b"anthropic-version", b"2023-06-01"))
        sent = (self.body(model) if body is None else body) if method != "GET" else b""
        return await self.running.call(
            path or self.path(model), sent, method=method, key=b"", fields=fields
        )

    async def key(
        self, user: str = "ann", spec: KeySpec | None = None, nano_usd: int = 10**12
    ) -> bytes:
        return await self.running.key(user, spec or KeySpec(), nano_usd)


Provoke = Callable[[Case], Awaitable[Answer]]


class Row(msgspec.Struct, frozen=True):
    """A code's HTTP status, what provokes it, and what is told.

    `message` must match wholly; {names} in it are the case's. `waits` says that `retry-after`
    comes with it. `nobody` is for refusals without a receipt: nobody owns it.
    """

    status: int
    provoke: Provoke
    message: str
    param: str | None = None
    waits: bool = False
    nobody: bool = False


async def broken_body(case: Case) -> Answer:
    return await case.ask(body=b'{"model":')


async def unknown_model(case: Case) -> Answer:
    return await case.ask("no-such-model")


async def other_format(case: Case) -> Answer:
    """A tool that the provider of the caller's format runs, asked of a provider of another one."""
    model = {"openai": "claude-sonnet-4-5", "anthropic": "gpt-4o", "gemini": "gpt-4o"}[case.family]
    bodies: dict[str, dict[str, Any]] = {
        "openai": {
            "messages": [{"role": "user", "content": "Look it up"}],
            "tools": [{"type": "web_search"}],
        },
        "anthropic": {
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "Look it up"}],
            "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        },
        "gemini": {
            "contents": [{"role": "user", "parts": [{"text": "Look it up"}]}],
            "tools": [{"googleSearch": {}}],
        },
    }
    said = bodies[case.family]
    if case.family != "gemini":
        said |= {"model": model, "stream": case.stream}
    return await case.ask(model, body=msgspec.json.encode(said))


async def no_key(case: Case) -> Answer:
    return await case.ask(key=b"")


async def empty_balance(case: Case) -> Answer:
    return await case.ask(key=await case.key("poor", nano_usd=1))


async def capped(case: Case) -> Answer:
    key = await case.key("careful")
    await case.running.gateway.accounts.set_cap("careful", case.model, 1)
    return await case.ask(key=key)


async def other_models(case: Case) -> Answer:
    return await case.ask(key=await case.key(spec=KeySpec(models=("another",))))


async def admins_key(case: Case) -> Answer:
    accounts = case.running.gateway.accounts
    if "root" not in (user.name for user in accounts.list_users()):
        await accounts.create_user("root", admin=True)
    _, text = await accounts.create_key("root", KeySpec(admin=True))
    return await case.ask(key=text.encode())


async def no_path(case: Case) -> Answer:
    return await case.ask(path="/v1beta/" if case.family == "gemini" else "/nowhere")


async def wrong_method(case: Case) -> Answer:
    return await case.ask(method="PUT")


async def code_of_another(case: Case) -> Answer:
    """A redemption code for the second time; the account has one path for all families."""
    accounts = case.running.gateway.accounts
    key = await case.key()
    ((_, text),) = await accounts.create_codes(10**9)
    await accounts.redeem("ann", text)
    body = msgspec.json.encode({"code": text})
    return await case.ask(path="/v1/account/redeem", body=body, key=key)


async def too_large(case: Case) -> Answer:
    return await case.ask(body=b'{"model":"' + b"x" * BODY_BYTES_MAX + b'"}')


async def credit_twice(case: Case) -> Answer:
    """Only admins meet it: theirs is the one API that takes idempotency keys."""
    await case.key()
    fields = [(b"Idempotency-Key", case.family.encode() + b"-%d" % case.stream)]
    for amount in ("1.00", "2.00"):
        body = msgspec.json.encode({"amount": amount})
        answer = await case.running.call(
            "/admin/v1/users/ann/credits", body, key=ADMIN_TOKEN, fields=fields
        )
    return answer


async def over_limit(case: Case) -> Answer:
    key = await case.key(spec=KeySpec(rpm=1))
    assert (await case.ask(key=key)).status == 200
    return await case.ask(key=key)


async def paused(case: Case) -> Answer:
    await case.running.gateway.settings.pause(case.provider, "admin")
    try:
        return await case.ask(f"{case.provider}/{case.model}")
    finally:
        await case.running.gateway.settings.resume(case.provider)


class BrokenLimiter(Limiter):
    def check(self, *_: Any) -> Any:
        raise ZeroDivisionError("a secret of the gateway's")


async def own_fault(case: Case) -> Answer:
    services = case.running.gateway.services
    kept, services.limiter = services.limiter, BrokenLimiter()
    try:
        return await case.ask()
    finally:
        services.limiter = kept


async def no_http(case: Case) -> Answer:
    return await case.ask(case.of_provider("garbles"))


async def keyless(case: Case) -> Answer:
    return await case.ask(case.of_provider("keyless"))


async def all_refuse(case: Case) -> Answer:
    return await case.ask(f"refuse-{case.family}")


async def full_disk(case: Case) -> Answer:
    key = await case.key()
    ledger = case.running.gateway.ledger
    ledger._set_writable(False)
    try:
        return await case.ask(key=key)
    finally:
        ledger._set_writable(True)


async def draining(case: Case) -> Answer:
    key = await case.key()
    services = case.running.gateway.services
    services.draining = True
    try:
        return await case.ask(key=key)
    finally:
        services.draining = False


async def silent(case: Case) -> Answer:
    return await case.ask(case.of_provider("stalls"))


USD = r"\$[0-9]+(\.[0-9]+)?"
ROWS: dict[str, Row] = {
    "invalid_request": Row(400, broken_body, r".*JSON.*"),
    "unknown_model_pricing": Row(
        400, unknown_model, "Unknown model pricing: no-such-model", "model"
    ),
    "unsupported_parameter": Row(
        400, other_format,
        r"tools.* cannot be expressed in the (openai_chat|anthropic_messages) format of this "
        r"model's provider",
        "tools[0]",
    ),
    "invalid_api_key": Row(
        401, no_key,
        "No API key was given: send it as Authorization: Bearer, x-api-key, x-goog-api-key or "
        "api-key",
        nobody=True,
    ),
    "insufficient_balance": Row(
        402, empty_balance,
        rf"Insufficient credit balance: this call may cost up to {USD}, {USD} is left; "
        r"top up or lower max_tokens",
    ),
    "call_cap_exceeded": Row(
        402, capped,
        rf"This call of {{model}} may cost up to {USD}, more than your cap of {USD} per call: "
        r"no max_tokens fits",
    ),
    "model_not_allowed": Row(403, other_models, "This key is not allowed model {model}", "model"),
    "permission_denied": Row(
        403, admins_key, "An admin's key is for /admin/v1 alone", nobody=True
    ),
    "not_found": Row(404, no_path, r"No such (endpoint|page): /.*", nobody=True),
    "method_not_allowed": Row(405, wrong_method, "PUT is not allowed here", nobody=True),
    "conflict": Row(409, code_of_another, r".*redeemed.*", "code", nobody=True),
    "request_too_large": Row(413, too_large, f"The request body is over {BODY_BYTES_MAX} bytes"),
    "idempotency_key_reused": Row(422, credit_twice, r".+", "idempotency_key", nobody=True),
    "rate_limit_exceeded": Row(429, over_limit, "Rate limit exceeded: 1 RPM", waits=True),
    "provider_paused": Row(429, paused, "Provider {provider} is paused", waits=True),
    "internal_error": Row(500, own_fault, "The gateway failed"),
    "bad_upstream_response": Row(502, no_http, r"Bad upstream response: .+"),
    "no_active_api_keys": Row(
        503, keyless, "No active API keys for provider keyless-{family}"
    ),
    "upstream_error": Row(503, all_refuse, "All upstream providers failed", waits=True),
    "ledger_unavailable": Row(
        503, full_disk, "Receipts cannot be written at the moment; nothing was sent",
        waits=True, nobody=True,
    ),
    "shutting_down": Row(503, draining, "The gateway is shutting down", waits=True, nobody=True),
    "upstream_timeout": Row(504, silent, r"Upstream timeout: no answer within 0\.2 s"),
}  # fmt: skip

PRODUCT = {
    "invalid_request": 400, "unknown_model_pricing": 400, "unsupported_parameter": 400,
    "invalid_api_key": 401, "insufficient_balance": 402, "call_cap_exceeded": 402,
    "model_not_allowed": 403, "not_found": 404, "request_too_large": 413,
    "rate_limit_exceeded": 429, "provider_paused": 429, "bad_upstream_response": 502,
    "no_active_api_keys": 503, "upstream_error": 503, "ledger_unavailable": 503,
    "upstream_timeout": 504,
}  # fmt: skip
"""What users are promised; codes beyond it may be added."""


def test_no_code_is_without_a_row() -> None:
    assert set(ROWS) == set(CODES)
    assert {code: row.status for code, row in ROWS.items()} == {
        code: status for code, (status, _, _) in CODES.items()
    }
    assert {code: ROWS[code].status for code in PRODUCT} == PRODUCT


async def answers(call: Call) -> None:
    if "/stalls/" in call.target:
        await call.gone(30)
    elif "/garbles/" in call.target:
        await call.send(b"220 mail ready\r\n\r\n")
    else:
        await call.send(reply(b'{"id":"x"}'))


@contextlib.asynccontextmanager
async def gateway_of_all(directory: Path) -> AsyncIterator[Running]:
    """A gateway where each family has a provider that garbles, one that stalls, and so on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: a connect is refused
        dead = f"http://127.0.0.1:{held.getsockname()[1]}"
        more = ""
        for family in FAMILIES:
            catalog = "google" if family == "gemini" else family
            section = f'format = "{family}"\ncatalog = "{catalog}"\n'
            for name in ("garbles", "stalls"):
                more += f'[providers.{name}-{family}]\n{section}keys = ["k"]\n'
                more += f'base_url = "{{url}}/{name}"\nfirst_byte_seconds = 0.2\n'
            more += f'[providers.keyless-{family}]\n{section}base_url = "{{url}}"\n'
            more += 'keys = ["env:A_VARIABLE_THAT_NOBODY_SETS"]\n'
            model = MODELS[family]
            for at in "ab":
                more += f'[providers.dead-{at}-{family}]\n{section}keys = ["k"]\n'
                more += f'base_url = "{dead}"\n'
            targets = [f"dead-{at}-{family}/{model}" for at in "ab"]
            more += f"[models.refuse-{family}]\ntargets = {targets}\n"
        sections = {
            "server": f"max_body_bytes = {BODY_BYTES_MAX}",
            "admin": f'token = "{ADMIN_TOKEN.decode()}"',
        }
        async with gateway_before(directory, answers, more=more, **sections) as (running, _):
            yield running


def expected(case: Case, row: Row, code: str, message: str, answer: Answer) -> dict[str, Any]:
    """The whole envelope, written down here from the vendors' documentation."""
    request_id = None if row.nobody else answer.receipt_id
    if case.family == "openai" or code == "idempotency_key_reused":
        kind = OPENAI_TYPES[row.status]
        return {"error": {"message": message, "type": kind, "param": row.param, "code": code}}
    if case.family == "anthropic":
        told = {"type": ANTHROPIC_TYPES[row.status], "message": message}
        return {"type": "error", "error": told, "request_id": request_id}
    google = "type.googleapis.com/google.rpc."
    details: list[dict[str, str]] = [
        {"@type": google + "ErrorInfo", "reason": code.upper(), "domain": "gateway"}
    ]
    if row.waits:
        found = answer.json()["error"]["details"][1]["retryDelay"]
        wait_ms = int(answer.get(b"retry-after-ms") or 0)
        assert wait_ms - 1 <= float(found.removesuffix("s")) * 1000 <= wait_ms
        details.append({"@type": google + "RetryInfo", "retryDelay": found})
    status = GOOGLE_STATUSES[row.status]
    error = {"code": row.status, "message": message, "status": status, "details": details}
    return {"error": error}


def check_headers(row: Row, answer: Answer) -> None:
    assert answer.get(b"content-type") in (b"application/json", b"application/json; charset=utf-8")
    retry_after, ms = answer.get(b"retry-after"), answer.get(b"retry-after-ms")
    if row.waits:
        assert retry_after is not None
        assert ms is not None
        assert 0 < int(ms) <= int(retry_after) * 1000 < int(ms) + 1000
        assert answer.get(b"x-should-retry") is None
    else:
        assert (retry_after, ms) == (None, None)
        assert answer.get(b"x-should-retry") == b"false"


@pytest.mark.parametrize("code", ROWS)
@scenario
async def test_a_refusal_is_told_in_every_envelope(code: str, tmp_path: Path) -> None:
    row = ROWS[code]
    async with gateway_of_all(tmp_path) as running:
        for family in FAMILIES:
            for stream in (False, True):
                case = Case(running, family, stream)
                answer = await row.provoke(case)
                assert answer.status == row.status, (family, stream, answer)
                message = str(answer.json()["error"]["message"])
                pattern = row.message
                for name in ("family", "model", "provider"):
                    told = re.escape(getattr(case, name))
                    pattern = pattern.replace(f"{{{name}}}", told)
                assert re.fullmatch(pattern, message), (family, stream, message)
                assert answer.json() == expected(case, row, code, message, answer)
                check_headers(row, answer)
                assert (answer.get(b"X-Badgr-Receipt-Id") is None) == row.nobody


# --- in the middle of a stream ----------------------------------------------------------------


async def cuts(call: Call) -> None:
    call.close()


async def falls_silent(call: Call) -> None:
    await call.gone(30)


async def talks_nonsense(call: Call) -> None:
    await call.send(b"no chunk at all\r\n")


MIDSTREAM: dict[str, tuple[Callable[[Call], Awaitable[None]], str]] = {
    "cut": (cuts, "bad_upstream_response"),
    "nonsense": (talks_nonsense, "bad_upstream_response"),
    "silence": (falls_silent, "upstream_timeout"),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("way", MIDSTREAM)
@scenario
async def test_a_stream_that_breaks_ends_in_one_error_event_of_its_format(
    name: str, way: str, tmp_path: Path
) -> None:
    stream = STREAMS[name]
    breaks, code = MIDSTREAM[way]
    # Between two members of an array nothing goes out before the next one comes.
    opening = stream.opening.rstrip() if name == "array" else stream.opening

    async def script(call: Call) -> None:
        await call.send(stream.head, chunk(stream.opening))
        await until(lambda: begun)
        await breaks(call)

    begun = False
    upstream = "first_byte_seconds = 5\nidle_seconds = 0.3"
    async with gateway_before(tmp_path, script, upstream=upstream) as (gateway, _):
        client = await gateway.client()
        key = await gateway.key()
        await client.send(
            b"POST %b HTTP/1.1\r\nHost: x\r\nx-api-key: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (stream.target.encode(), key, len(stream.body), stream.body)
        )
        status, fields = await client.head()
        assert status == 200
        said = b""
        while len(said) < len(opening):
            said += await client.piece()
        begun = True
        receipt_id = dict(fields)[b"X-Badgr-Receipt-Id"].decode()
        while piece := await client.piece():
            said += piece
        assert said.startswith(opening)
        assert stream.terminal not in said
        event = said[len(opening) :]
        check_event(name, event, code, receipt_id)
        assert await client.closed()
        receipt = await gateway.receipt(receipt_id, key)
        assert (receipt["status"], receipt["failure"]["code"]) == ("failed", code)


def check_event(name: str, event: bytes, code: str, receipt_id: str) -> None:
    """Exactly one event, with the envelope of its format."""
    status = CODES[code][0]
    opens, closes = {
        "chat": (b"data: ", b"\n\n"),
        "responses": (b"event: response.failed\ndata: ", b"\n\n"),
        "messages": (b"event: error\ndata: ", b"\n\n"),
        "gemini": (b"data: ", b"\r\n\r\n"),
        "array": (b",\n", b"\n]"),
    }[name]
    assert event.startswith(opens)
    assert event.endswith(closes)
    told = msgspec.json.decode(event[len(opens) : -len(closes)])
    if name == "responses":
        assert told["type"] == "response.failed"
        assert told["sequence_number"] == 8  # the one after the last
        assert told["response"]["status"] == "failed"
        assert told["response"]["error"]["code"] == code
    elif name == "chat":
        assert told["error"]["code"] == code
        assert told["error"]["type"] == OPENAI_TYPES[status]
    elif name == "messages":
        assert told["error"]["type"] == ANTHROPIC_TYPES[status]
        assert told["request_id"] == receipt_id
    else:
        assert told["error"]["code"] == status
        assert told["error"]["status"] == GOOGLE_STATUSES[status]
        assert told["error"]["details"][0]["reason"] == code.upper()

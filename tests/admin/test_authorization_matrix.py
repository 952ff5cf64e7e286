"""Who may do what: every route of a running gateway, asked by everybody there can be.

The routes are read from the gateway's own router and from the tables of proxied endpoints; one that
`TABLE` does not list fails the test. Whoever is refused must have changed nothing and reached no
upstream.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from admin_site import CHAT, TOKEN, AdminSite, admin_site, canonical, routes
from harness import OWN_KEY, scenario, until

from gateway.accounts import keys
from gateway.accounts.changes import KeySpec
from gateway.app import Gateway
from gateway.proxy import endpoints

Kind = Literal["public", "own", "receipt", "account", "admin", "proxied"]
Who = Literal[
    "nobody", "provider key", "user", "other user", "revoked", "expired", "suspended", "unknown",
    "malformed", "admin's user key", "admin", "admin token", "wrong token", "revoked admin",
    "suspended admin", "former admin",
]  # fmt: skip

OK = 0
"""Stands for any answer of somebody who is let in: also one that finds nothing, or a bad body."""

_DEAD: tuple[Who, ...] = (
    "revoked", "expired", "suspended", "unknown", "malformed", "revoked admin", "suspended admin",
)  # fmt: skip
_DEAD_401: dict[Who, int] = dict.fromkeys(_DEAD, 401)

EXPECTED: dict[Kind, dict[Who, int]] = {
    "public": {},
    # With a caller's own provider key, receipts and models are those of that key.
    "own": {"nobody": 401, "admin": 403, "admin token": 403, "former admin": 403, **_DEAD_401},
    "receipt": {
        "nobody": 401, "provider key": 404, "other user": 404, "admin's user key": 404,
        "wrong token": 404, "admin": 403, "admin token": 403, "former admin": 403, **_DEAD_401,
    },
    "account": {
        "nobody": 401, "provider key": 404, "wrong token": 404, "admin": 403, "admin token": 403,
        "former admin": 403, **_DEAD_401,
    },
    "admin": {
        "nobody": 401, "provider key": 401, "wrong token": 401, "user": 403, "other user": 403,
        "admin's user key": 403, "former admin": 403, **_DEAD_401,
    },
    "proxied": {"nobody": 401, "admin": 403, "admin token": 403, "former admin": 403, **_DEAD_401},
}  # fmt: skip

TABLE: dict[tuple[str, str], Kind] = {
    **{("GET", path): "public" for path in ("/", "/healthz", "/readyz", "/metrics")},
    ("GET", "/openapi.json"): "public",
    ("GET", "/v1/receipts"): "own",
    ("GET", "/v1/receipts/{id}"): "receipt",
    ("GET", "/v1/models"): "own",
    ("GET", "/v1/models/{id}"): "own",
    ("GET", "/v1beta/models"): "own",
    ("GET", "/v1beta/models/{id}"): "own",
    ("GET", "/v1/account"): "account",
    ("GET", "/v1/usage"): "account",
    ("POST", "/v1/account/redeem"): "account",
    **{
        (method, f"/admin/v1{path}"): "admin"
        for method, path in (
            ("GET", "/users"), ("POST", "/users"), ("GET", "/users/{name}"),
            ("PATCH", "/users/{name}"), ("POST", "/users/{name}/suspend"),
            ("POST", "/users/{name}/resume"), ("POST", "/users/{user}/credits"),
            ("POST", "/users/{name}/sign-in-link"), ("DELETE", "/users/{name}/sessions"),
            ("POST", "/users/{user}/corrections"), ("GET", "/users/{user}/caps"),
            ("POST", "/users/{user}/caps"), ("GET", "/keys"), ("POST", "/keys"),
            ("PATCH", "/keys/{id}"), ("DELETE", "/keys/{id}"), ("GET", "/codes"),
            ("POST", "/codes"), ("POST", "/codes/redeem"), ("GET", "/providers"),
            ("PUT", "/providers/{name}"), ("DELETE", "/providers/{name}"),
            ("POST", "/providers/{name}/pause"), ("POST", "/providers/{name}/resume"),
            ("POST", "/providers/{provider}/keys"),
            ("PATCH", "/providers/{provider}/keys/{id}"),
            ("DELETE", "/providers/{provider}/keys/{id}"),
            ("POST", "/providers/rotate-master"), ("GET", "/models"), ("GET", "/models/{name}"),
            ("PUT", "/models/{provider}/{model}"), ("DELETE", "/models/{provider}/{model}"),
            ("GET", "/receipts"), ("GET", "/receipts/{id}"), ("GET", "/usage"),
            ("GET", "/in-flight"), ("GET", "/ledger/check"), ("POST", "/reload"),
        )
    },
}  # fmt: skip

_BODIES: dict[str, bytes] = {
    "embeddings": b'{"model":"text-embedding-3-small","input":"x"}',
    "completions": b'{"model":"gpt-3.5-turbo-instruct","prompt":"x","max_tokens":5}',
    "responses": b'{"model":"gpt-4o","input":"x","max_output_tokens":20}',
    "responses/compact": b'{"model":"gpt-4o","input":"x"}',
    "responses/input_tokens": b'{"model":"gpt-4o","input":"x"}',
    "moderations": b'{"model":"omni-moderation-latest","input":"x"}',
    "messages": b'{"model":"claude-opus-4-5","max_tokens":20,"messages":[]}',
    "messages/count_tokens": b'{"model":"claude-opus-4-5","messages":[]}',
    "chat/completions": CHAT,
}


class Asked(NamedTuple):
    kind: Kind
    method: str
    target: str
    body: bytes


def asked(gateway: Gateway, receipt_id: str) -> Iterator[Asked]:
    """Every request of the matrix. Names in braces stand for what does not exist, save receipts."""
    for method, path in routes(gateway):
        spelled = canonical(path)
        if spelled == "/v1/models/{id}":
            filled = path.replace("{id}", "gpt-4o")
        elif spelled == "/v1beta/models/{id}":
            filled = path.replace("{id}", "gemini-2.5-flash")
        else:
            filled = path.replace("{id}", receipt_id)
        filled = re.sub(r"\{\w+\}", "none", re.sub(r"\{(\w+):[^}]*\}", r"{\1}", filled))
        yield Asked(TABLE[method, spelled], method, filled, b"" if method == "GET" else b"{}")
    for _, path in (*endpoints.METERED, *endpoints.FREE):
        for prefix in ("/v1", "/api/v1"):
            yield Asked("proxied", "POST", f"{prefix}/{path}", _BODIES[path])
    for method in endpoints.GEMINI_METHODS:
        model = "gemini-embedding-001" if "mbed" in method else "gemini-2.5-flash"
        yield Asked("proxied", "POST", f"/v1beta/models/{model}:{method}", b'{"contents":[]}')
    yield Asked("proxied", "POST", "/v1/openai/chat/completions", CHAT)


async def everybody(site: AdminSite) -> dict[Who, bytes]:
    """Everybody there can be, by what they send."""
    accounts = site.gateway.gateway.accounts

    async def key(user: str, *, is_admin: bool = False, **spec: Any) -> tuple[str, bytes]:
        if user not in (one.name for one in accounts.list_users()):
            await accounts.create_user(user, admin=is_admin)
            await accounts.credit(user, 10**12)
        made, text = await accounts.create_key(user, KeySpec(**spec))
        return made.id, text.encode()

    async def revoked(user: str, **options: Any) -> bytes:
        key_id, text = await key(user, **options)
        await accounts.revoke_key(key_id)
        return text

    soon_ms = accounts._clock_ms() + 1000
    expired = (await key("ann", expires_ms=soon_ms))[1]
    found: dict[Who, bytes] = {
        "nobody": b"",
        "provider key": OWN_KEY,
        "user": (await key("ann"))[1],
        "other user": (await key("bob"))[1],
        "revoked": await revoked("ann"),
        "expired": expired,
        "suspended": (await key("sue"))[1],
        "unknown": keys.mint("gw-").encode(),
        "malformed": b"gw-0000000000000000000000000000000000",
        "admin's user key": (await key("boss", is_admin=True))[1],
        "admin": (await key("root", is_admin=True, admin=True))[1],
        "admin token": TOKEN,
        "wrong token": TOKEN[:-1] + b"b",
        "revoked admin": await revoked("root", admin=True),
        "suspended admin": (await key("gone", is_admin=True, admin=True))[1],
        "former admin": (await key("former", is_admin=True, admin=True))[1],
    }
    await accounts.suspend_user("sue")
    await accounts.suspend_user("gone")
    await site.done("PATCH", "/users/former", {"admin": False})
    await until(lambda: accounts.identify(expired, accounts._clock_ms()) is None)
    assert set(found) == set(get_args(Who))
    return found


def state(site: AdminSite) -> object:
    """All that a request could change of the control plane."""
    gateway = site.gateway.gateway
    accounts, settings = gateway.accounts, gateway.settings
    return (
        accounts.list_users(),
        accounts.list_keys(),
        [accounts.funds(user.id).balance for user in accounts.list_users()],
        [accounts.caps(user.name) for user in accounts.list_users()],
        [gateway.sign_in.sessions(user.id) for user in accounts.list_users()],
        dict(gateway.sign_in._links),
        settings.list_keys(),
        dict(settings.providers),
        dict(settings.models),
    )


@scenario
async def test_every_route_admits_whom_it_is_for_and_nobody_else(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        people = await everybody(site)
        mine = await site.chat(people["user"])
        requests = list(asked(site.gateway.gateway, mine.receipt_id))
        assert len(requests) > 100
        before, calls = state(site), len(site.upstream.calls)
        let_in: list[tuple[Who, Asked]] = []
        wrong: list[str] = []
        for request in requests:
            for who, credential in people.items():
                expected = EXPECTED[request.kind].get(who, OK)
                if expected == OK:
                    let_in.append((who, request))
                    continue
                status = await sent(site, request, credential)
                if status != expected:
                    wrong.append(f"{who}: {request.method} {request.target}: {status}")
        assert not wrong
        assert state(site) == before
        assert len(site.upstream.calls) == calls
        for who, request in let_in:
            status = await sent(site, request, people[who])
            if status in (401, 403):
                wrong.append(f"{who}: {request.method} {request.target}: {status}")
        assert not wrong
        assert len(site.upstream.calls) > calls


async def sent(site: AdminSite, request: Asked, credential: bytes) -> int:
    answer = await site.gateway.call(
        request.target, request.body, method=request.method, key=credential
    )
    return answer.status


@scenario
async def test_every_route_of_the_gateway_is_in_the_table_and_none_besides(
    tmp_path: Path,
) -> None:
    async with admin_site(tmp_path) as site:
        found = {(method, canonical(path)) for method, path in routes(site.gateway.gateway)}
    assert found == set(TABLE)
    assert {path for _, path in (*endpoints.METERED, *endpoints.FREE)} == set(_BODIES)


@scenario
async def test_no_spelling_of_an_admin_route_opens_it(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:
        people = await everybody(site)
        before = state(site)
        targets = (
            "/admin/v1/users", "/admin/v1/users/", "//admin/v1/users", "/admin//v1/users",
            "/admin/v1//users", "/ADMIN/v1/users", "/admin/v1/users?x=1", "/%61dmin/v1/users",
            "/admin/v1/%75sers", "/admin/v1/users;x", "/admin/v1/./users", "/admin/v1/x/../users",
            "/v1/../admin/v1/users", "/v1/admin/v1/users", "/api/admin/v1/users",
            "/v1/openai/../../admin/v1/users", "/healthz/../admin/v1/users",
            "/v1/receipts/../../admin/v1/users", "/admin/v1/users%00", "/admin/v1/users%2f",
        )  # fmt: skip
        tricks: tuple[list[tuple[bytes, bytes]], ...] = (
            [],
            [(b"X-Original-URL", b"/healthz"), (b"X-Rewrite-URL", b"/healthz")],
            [(b"X-HTTP-Method-Override", b"GET"), (b"X-Forwarded-For", b"127.0.0.1")],
            [(b"X-Forwarded-Host", b"localhost"), (b"Forwarded", b"for=127.0.0.1;host=localhost")],
        )
        refused: tuple[Who, ...] = ("nobody", "user", "revoked", "suspended admin", "wrong token")
        for target in targets:
            for fields in tricks:
                for who in refused:
                    for method in ("GET", "POST"):
                        body = b'{"name":"mallory"}' if method == "POST" else b""
                        answer = await site.gateway.call(
                            target, body, method=method, key=people[who], fields=fields
                        )
                        told = b'"object":"list"' in answer.body or b'"mallory"' in answer.body
                        assert not told, (who, method, target)
        assert state(site) == before


@scenario
async def test_the_right_token_counts_in_its_two_slots_and_nowhere_else(tmp_path: Path) -> None:
    async with admin_site(tmp_path) as site:

        async def status(
            *fields: tuple[bytes, bytes], target: str = "/admin/v1/users", key: bytes = b""
        ) -> int:
            answer = await site.gateway.call(target, method="GET", key=key, fields=fields)
            return answer.status

        assert await status((b"Authorization", b"Bearer " + TOKEN)) == 200
        assert await status((b"authorization", b"bearer " + TOKEN)) == 200
        assert await status((b"x-api-key", TOKEN)) == 200
        assert await status((b"x-api-key", TOKEN), key=TOKEN) == 200
        for fields in (
            [(b"x-goog-api-key", TOKEN)],
            [(b"api-key", TOKEN)],
            [(b"Authorization", b"Basic " + TOKEN)],
            [(b"Authorization", TOKEN)],
            [(b"Cookie", b"token=" + TOKEN)],
            [(b"x-api-key", TOKEN), (b"Authorization", b"Bearer gw-other")],
            [(b"x-api-key", TOKEN), (b"x-api-key", b"other")],
            [(b"x-api-key", TOKEN + b"0")],
            [(b"x-api-key", TOKEN[:-1])],
            [(b"x-api-key", b"\xff\xfe")],
        ):
            assert await status(*fields) == 401, fields
        assert await status(target=f"/admin/v1/users?key={TOKEN.decode()}") == 401


@scenario
async def test_without_a_token_in_the_configuration_none_opens_anything(tmp_path: Path) -> None:
    async with admin_site(tmp_path, admin="") as site:
        for key in (b"", TOKEN, b'""', b"None"):
            assert (await site.ask("GET", "/users", key=key)).status == 401
        assert (await site.ask("GET", "/users", key=await site.admin_key())).status == 200

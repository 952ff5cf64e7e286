"""A gateway with an admin API, and the ways that tests ask it."""

import contextlib
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from harness import Answer, Running, Script, Upstream, answering, gateway_before, reply

from gateway.accounts.changes import KeySpec
from gateway.app import Gateway

TOKEN = b"admin-token-5f1d0c9b7a"
CHAT = b'{"model":"gpt-4o","max_tokens":200,"messages":[]}'
USAGE = b'{"id":"c","usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'
CHAT_NANO_USD = 1000 * 2500 + 200 * 10_000
"""What `CHAT` costs where the answer is `USAGE`."""


class AdminSite:
    """A running gateway and its upstream."""

    def __init__(self, gateway: Running, upstream: Upstream) -> None:
        self.gateway = gateway
        self.upstream = upstream

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: bytes = TOKEN,
        fields: Iterable[tuple[bytes, bytes]] = (),
    ) -> Answer:
        """One request below /admin/v1, with a JSON body where there is one."""
        sent = b"" if body is None else msgspec.json.encode(body)
        return await self.gateway.call(
            f"/admin/v1{path}", sent, method=method, key=key, fields=fields
        )

    async def done(self, method: str, path: str, body: object = None) -> Any:
        """The answer of a request that succeeds."""
        answer = await self.ask(method, path, body)
        assert answer.status == 200, answer
        return answer.json()

    async def refused(
        self, method: str, path: str, body: object = None, **options: Any
    ) -> tuple[int, str, str | None]:
        """Status, code and param of a request that is refused."""
        answer = await self.ask(method, path, body, **options)
        error = answer.json()["error"]
        assert error["message"]
        return answer.status, error["code"], error["param"]

    async def user(self, name: str, amount: str | None = None, **settings: object) -> bytes:
        """A new user with credit, and the text of a key of theirs."""
        await self.done("POST", "/users", {"name": name})
        if amount is not None:
            await self.done("POST", f"/users/{name}/credits", {"amount": amount})
        if settings:
            await self.done("PATCH", f"/users/{name}", settings)
        made = await self.done("POST", "/keys", {"user": name})
        return str(made["key"]).encode()

    async def admin_key(self, name: str = "root") -> bytes:
        """The text of an admin's key."""
        await self.gateway.gateway.accounts.create_user(name, admin=True)
        spec = KeySpec(admin=True)
        return (await self.gateway.gateway.accounts.create_key(name, spec))[1].encode()

    async def chat(self, key: bytes, body: bytes = CHAT) -> Answer:
        """One call of a model."""
        return await self.gateway.call("/v1/chat/completions", body, key=key)


@contextlib.asynccontextmanager
async def admin_site(
    directory: Path, script: Script | None = None, **sections: str
) -> AsyncIterator[AdminSite]:
    """A gateway that takes `TOKEN`, before an upstream that answers `USAGE`."""
    sections.setdefault("admin", f'token = "{TOKEN.decode()}"')
    script = script or answering(reply(USAGE))
    async with gateway_before(directory, script, **sections) as (gateway, upstream):
        yield AdminSite(gateway, upstream)


def canonical(path: str) -> str:
    """A route of the router, in the one spelling that is documented."""
    path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)
    path = re.sub(r"^/api/(?=v1)", "/", path)
    return re.sub(r"^/(v1|v1beta)/(v1beta|v1)(?=/)", lambda match: f"/{match[2]}", path)


def routes(gateway: Gateway) -> Iterator[tuple[str, str]]:
    """Method and path of every endpoint of our own; HEAD goes with its GET.

    Pages for browsers are not among them: who may see those is shown in `tests/web`.
    """
    for route in gateway.pages.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if route.method != "HEAD" and not path.startswith(("/dashboard", "/docs")):
            yield route.method, path

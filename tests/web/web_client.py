"""A visitor of the pages: cookies, forms with their token, redirects; and a site to visit."""

import contextlib
import html
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from argon2 import PasswordHasher
from harness import Running, serving

from gateway.accounts.passwords import Passwords

PASSWORD = "a password of ten or more"

CONFIG = """
[server]
host = "127.0.0.1"
port = 0

[store]
path = "{path}"

[providers.demo]
format = "all"
base_url = "builtin:demo"

[models.basic]
targets = ["demo/demo"]
{more}
"""

_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')
_TAGS = re.compile(r"<script.*?</script>|<[^>]*>", re.DOTALL)


class Seen:
    """A page as it came."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str], path: str) -> None:
        self.status = status
        self.text = text
        self.headers = headers
        self.path = path

    @property
    def words(self) -> str:
        """What a reader sees: no tags, one space between words."""
        return " ".join(html.unescape(_TAGS.sub(" ", self.text)).split())

    @property
    def token(self) -> str:
        """The token of the page's forms."""
        found = _TOKEN.search(self.text)
        assert found, self.text
        return found[1]

    def __repr__(self) -> str:
        return f"{self.status} {self.path}\n{self.words[:2000]}"


class Visitor:
    """Somebody with a browser. `last` is the page they see."""

    def __init__(self, running: Running, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.base = f"http://127.0.0.1:{running.port}"
        self.session = session
        self.last: Seen | None = None

    async def get(self, path: str, *, follow: bool = True, **options: Any) -> Seen:
        """Open a page, wherever it leads."""
        async with self.session.get(self.base + path, allow_redirects=follow, **options) as answer:
            return await self._seen(answer)

    async def send(
        self,
        path: str,
        fields: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        origin: str | None = None,
        follow: bool = True,
    ) -> Seen:
        """Send a form of the page that was seen last, with its token, and see what comes."""
        if token is None:
            assert self.last is not None, "no page was opened before"
            token = self.last.token
        sent: list[tuple[str, str]] = [("csrf", token)]
        for name, value in (fields or {}).items():
            sent += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
        headers = {"Origin": self.base if origin is None else origin}
        async with self.session.post(
            self.base + path, data=sent, headers=headers, allow_redirects=follow
        ) as answer:
            return await self._seen(answer)

    async def sign_in(self, email: str, password: str = PASSWORD) -> Seen:
        """Through the form; sees the overview."""
        await self.get("/dashboard/sign-in")
        return await self.send("/dashboard/sign-in", {"email": email, "password": password})

    async def _seen(self, answer: aiohttp.ClientResponse) -> Seen:
        text = await answer.text()
        seen = Seen(answer.status, text, answer.headers, answer.url.raw_path_qs)
        if "text/html" in answer.headers.get("Content-Type", ""):
            self.last = seen
        return seen


class WebSite:
    """A gateway with pages, whose users have passwords."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._sessions: list[aiohttp.ClientSession] = []

    def visitor(self) -> Visitor:
        """Somebody new, signed out."""
        session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self._sessions.append(session)
        return Visitor(self.running, session)

    async def user(self, name: str = "ada", *, admin: bool = False, usd: int = 10) -> Visitor:
        """A new user with credit, e-mail `NAME@example.org` and `PASSWORD`, signed in."""
        gateway = self.running.gateway
        made = await gateway.accounts.create_user(name, email=f"{name}@example.org", admin=admin)
        if usd:
            await gateway.accounts.credit(name, usd * 10**9)
        await gateway.sign_in.set_password(made.id, PASSWORD, current=None, keep=None)
        visitor = self.visitor()
        seen = await visitor.sign_in(f"{name}@example.org")
        assert seen.status == 200, seen
        return visitor

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()


@contextlib.asynccontextmanager
async def web_site(directory: Path, more: str = "") -> AsyncIterator[WebSite]:
    """A site before the built-in upstream; `more` is added to its configuration."""
    text = CONFIG.format(path=directory / "gateway.db", more=more)
    async with serving(text) as running:
        # Cheap parameters: what they cost is not what these tests are about.
        running.gateway.sign_in._passwords = Passwords(PasswordHasher(1, 8, 1))
        site = WebSite(running)
        try:
            yield site
        finally:
            await site.close()

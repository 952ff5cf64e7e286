"""A gateway as its people use it: users with passwords and keys, and weeks of receipts.

`serving(directory)` makes a store with receipts of sixty days, starts the demo upstream and the
gateway as processes of their own, and lets people in as an operator would: `gateway users create`
and the one-time link that it prints. `BrowserSite` is what a test does beside the browser: calls
with a key, the admin API, and what the store holds.
"""

import contextlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
from client_site import ADMIN_TOKEN, ROOT, START_S, command, environment, process

PASSWORD = "correct horse battery"
ADMIN, USER = "grace", "ada"
HISTORY_RECEIPTS = 600

PROVIDER_KEY = "sk-canary-of-the-provider"

_CONFIG = """
[server]
port = 0
{server}

[store]
path = "{directory}/gateway.db"

[admin]
token = "{admin_token}"

[dashboard]
signup = true
{dashboard}

[providers.openai]
format = "openai"
base_url = "{upstream}/v1"
keys = ["{provider_key}", "sk-another-of-the-server"]
daily_alert_usd = 50
daily_stop_usd = 100

[providers.anthropic]
format = "anthropic"
base_url = "{upstream}/anthropic/v1"
keys = ["sk-ant-of-the-server"]
daily_alert_usd = 0.02

[providers.google]
format = "gemini"
base_url = "{upstream}/gemini/v1beta"
keys = ["AIza-of-the-server"]

[providers.moonshot]
format = "openai"
base_url = "{upstream}/v1"
keys = []

[providers.demo]
format = "all"
base_url = "builtin:demo"

[models.basic]
targets = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]

[models.premium]
targets = ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"]

[model_map]
"gpt-3.5*" = "basic"
{more}
"""

_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')
_WANTED: Mapping[str, Any] = {"rpm": 100_000, "tpm": 100_000_000}


class BrowserSite:
    """A running gateway, from beside the browser."""

    def __init__(self, url: str, upstream: str, directory: Path) -> None:
        self.url = url
        self.upstream = upstream
        self.directory = directory
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=30)
        self.secrets: set[str] = {PASSWORD, ADMIN_TOKEN, PROVIDER_KEY}
        """What no page may show, but the one that is for it."""

    def close(self) -> None:
        self.http.close()

    def ask(self, method: str, path: str, **arguments: object) -> Any:
        """What the admin API answers."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        body = arguments or None
        answer = self.http.request(method, f"/admin/v1{path}", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        return orjson.loads(answer.content)

    def user(self, name: str, *, usd: str = "10", admin: bool = False) -> str:
        """A new user who can sign in with `NAME@example.org` and `PASSWORD`; gives the e-mail."""
        email = f"{name}@example.org"
        self.ask("POST", "/users", name=name, email=email, admin=admin)
        if usd != "0":
            self.ask("POST", f"/users/{name}/credits", amount=usd)
        self.let_in(name)
        return email

    def let_in(self, name: str) -> None:
        """Give a user the password, through a link."""
        self.enter(self.link(name)["token"])

    def link(self, name: str) -> dict[str, Any]:
        """A new one-time link of a user."""
        made: dict[str, Any] = self.ask("POST", f"/users/{name}/sign-in-link")
        self.secrets.add(made["token"])
        return made

    def enter(self, token: str) -> None:
        """Set the password with a link's token, as its page does."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as visitor:
            found = _TOKEN.search(visitor.get("/dashboard/welcome").text)
            assert found
            fields = {"csrf": found[1], "token": token, "password": PASSWORD, "again": PASSWORD}
            answer = visitor.post("/dashboard/welcome", data=fields, headers={"origin": self.url})
        assert answer.status_code == 303, answer.text

    def key(self, user: str, **wanted: object) -> str:
        """The text of a new key."""
        made = self.ask("POST", "/keys", user=user, **{**_WANTED, **wanted})
        text: str = made["key"]
        self.secrets.add(text)
        return text

    def call(self, key: str, model: str, words: str = "Say hello", **more: Any) -> httpx.Response:
        """One chat completion, read to its end."""
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        messages = [{"role": "user", "content": words}]
        body = {"model": model, "messages": messages, "max_tokens": 200, **more}
        return self.http.post("/v1/chat/completions", headers=headers, json=body)

    def leave(self, key: str, model: str) -> None:
        """Begin a streamed answer and hang up."""
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Count"}]}
        with self.http.stream("POST", "/v1/chat/completions", headers=headers, json=body) as answer:
            next(answer.iter_raw())

    def store(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of the store, receipts too: what a form could have changed."""
        path = self.directory / "gateway.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
            names = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            return {name: conn.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}


@contextlib.contextmanager
def serving(directory: Path, **sections: str) -> Iterator[BrowserSite]:
    """Both processes; `sections` adds lines to a section, `more` to the end of the file."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(
            process(directory, "upstream", ["gateway.demo", "--port", "0"])
        )
        added = {name: sections.get(name, "") for name in ("server", "dashboard", "more")}
        (directory / "config.toml").write_text(
            _CONFIG.format(
                directory=directory, upstream=upstream, admin_token=ADMIN_TOKEN,
                provider_key=PROVIDER_KEY, **added,
            )
        )  # fmt: skip
        _history(directory / "gateway.db")
        made = command(
            directory, "users", "create", ADMIN, "--admin", "--email", f"{ADMIN}@example.org"
        )
        url = stack.enter_context(
            process(directory, "gateway", ["gateway", "serve", "--config", "config.toml"])
        )
        site = stack.enter_context(contextlib.closing(BrowserSite(url, upstream, directory)))
        site.secrets.add(made["sign_in_link"]["token"])
        site.enter(made["sign_in_link"]["token"])
        site.let_in(USER)
        yield site


def _history(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ledger.many_receipts", "--receipts", str(HISTORY_RECEIPTS),
         "--store", str(path)],
        cwd=ROOT, env=environment(), capture_output=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def busy(site: BrowserSite) -> None:
    """A morning of a user: answers, streams, failures of several kinds, one who hung up."""
    site.ask("POST", f"/users/{ADMIN}/credits", amount="25")
    key = site.key(USER, name="notebook", spend_cap="5.00")
    site.key(USER, name="old one", models=["gpt-4o", "basic", "premium"], rpm=60)
    for model in ("basic", "gpt-4o", "demo", "gpt-4o"):
        site.call(key, model)
    site.call(key, "gpt-4o-mini", stream=True, stream_options={"include_usage": True})
    for model in ("demo+status=500", "demo+error=2", "gpt-7-preview", "demo+reset"):
        site.call(key, model, stream=True)
    site.leave(key, "demo+tokens=2000+pace=20")
    site.call(site.key(ADMIN, name="the admin's"), "premium")
    site.call("sk-of-nobody", "gpt-4o")
    site.ask("POST", f"/users/{USER}/caps", model="gpt-4o", amount="0.05")
    site.ask("POST", f"/users/{USER}/corrections", amount="-0.25", reason="Counted twice")
    site.secrets.update(
        one["code"] for one in site.ask("POST", "/codes", amount="5", count=3)["data"]
    )
    site.ask("PUT", "/models/openai/gpt-4o", multiplier="1.1")

"""A gateway under watch: what is asked of it with which secrets, and the search for them.

`Site` keeps every answer and knows where files and log are; the `calls_of_…` are requests that
carry each secret of a caller's through every way in which it can be refused or answered.
"""

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from fault_gateway import REPOSITORY, Gateway, Setup
from fault_secrets import MODES, Canaries, Told
from harness import Answer, Client, Upstream

SLOTS = ("Authorization", "x-api-key", "x-goog-api-key", "api-key", "?key=")
AT_ONCE = 24
DYE = "dyed-model-8R2kQ"
"""No secret: it must be found where secrets are searched for, or the search is blind."""
QUOTES = frozenset(m for m in MODES if m not in ("fine", "fields", "redirect", "silent"))
"""The ways of a provider whose bodies quote what it was sent."""

Fields = list[tuple[bytes, bytes]]


@dataclass
class Ask:
    """A request; `own` names the secrets that its answer's upstream may quote back to it."""

    target: str
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    method: str = "POST"
    own: frozenset[str] = frozenset()
    raw: bytes = b""


@dataclass
class Site:
    """A gateway under watch, all that is secret, and all that was said."""

    gateway: Gateway
    upstream: Upstream
    told: Told
    canaries: Canaries
    answers: list[tuple[str, frozenset[str], bytes]] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    issued: dict[str, bytes] = field(default_factory=dict)
    """Answers that issue a secret, by its name: it may be in that one alone."""

    def text(self, level: str, form: str, *, extra: str = "") -> str:
        """The configuration, with its secrets; every provider misbehaves in its own way."""
        known, told = self.canaries.known, self.told
        text = Setup(self.upstream_port).text(self.gateway.path)
        text = text.replace('"provider-key-openai"', f'"{known["key of openai"]}"')
        text = text.replace('"provider-key-anthropic"', '"env:CANARY_ANTHROPIC"')
        text = text.replace('"provider-key-google"', '"env:CANARY_GOOGLE"')
        text = text.replace(f":{self.upstream_port}/", f":{self.upstream_port}/fine/")
        text = text.replace("[upstream]", "[upstream]\nbreaker_failures = 1000")
        for mode in MODES:
            text += f"""
[providers.{mode}]
format = "openai"
base_url = "http://127.0.0.1:{self.upstream_port}/{mode}/v1"
keys = ["{known[f"key of {mode}"]}"]
catalog = "openai"
unmetered = true
first_byte_seconds = 0.3
idle_seconds = 1
"""
        return (
            text
            + f"""
[providers.dead]
format = "openai"
base_url = "http://127.0.0.1:1/v1"
keys = ["{known["key of dead"]}"]
catalog = "openai"
[models.several]
targets = ["dead/gpt-4o-mini", "status500/gpt-4o-mini", "opens/gpt-4o-mini"]
[admin]
token = "{known["admin token"]}"
[alerts]
smtp_host = "127.0.0.1"
smtp_port = {told.mail_port}
smtp_security = "tls"
smtp_user = "postmaster"
smtp_password = "env:CANARY_SMTP"
smtp_ca_file = "{told.ca_file}"
mail_from = "gateway@example.org"
mail_to = ["ops@example.org"]
webhook_url = "http://hook:{known["webhook password"]}@127.0.0.1:{told.hook_port}\
/{known["webhook path"]}?t={known["webhook query"]}"
webhook_secret = "{known["webhook secret"]}"
user_daily_usd = 0.000000001
[log]
level = "{level}"
format = "{form}"
requests = true
{extra}"""
        )

    @property
    def upstream_port(self) -> int:
        return int(self.upstream.url.rpartition(":")[2])

    # -- asking ----------------------------------------------------------------------------------

    async def ask(self, one: Ask) -> Answer | None:
        """Ask on a connection of its own; what comes back is kept for the search."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        client = Client(reader, writer)
        whole = bytearray()
        answer = None
        try:
            async with asyncio.timeout(20):
                if one.raw:
                    await client.send(one.raw)
                    whole += await reader.read()
                else:
                    answer = await client.request(one.method, one.target, one.fields, one.body)
                    self.statuses.add(answer.status)
                    for name, value in answer.fields:
                        whole += b"%b: %b\n" % (name, value)
                    whole += answer.body
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            client.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.answers.append((f"{one.method} {one.target}", one.own, bytes(whole)))
        return answer

    async def ask_all(self, asks: Iterable[Ask]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(ask: Ask) -> None:
            async with gate:
                await self.ask(ask)

        async with asyncio.TaskGroup() as group:
            for ask in asks:
                group.create_task(one(ask))

    async def admin(
        self, method: str, path: str, body: dict[str, object] | None = None, *, issues: str = ""
    ) -> dict[str, object]:
        """A verb; where it `issues` a secret, that answer is kept apart."""
        fields = [*bearer(self.canaries.known["admin token"]), JSON]
        sent = b"" if method == "GET" else orjson.dumps(body or {})
        answer = await self.ask(Ask(f"/admin/v1{path}", fields, sent, method))
        assert answer is not None
        if issues:
            assert answer.status == 200, answer
            self.issued[issues] = self.answers.pop()[2]
        return dict(orjson.loads(answer.body))

    async def command(self, *words: str, stdin: str = "", issues: str = "") -> bytes:
        """The `gateway` command; what it prints is searched like an answer."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words, cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env=os.environ | self.gateway.environment,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        if issues:
            assert process.returncode == 0, out
            self.issued[issues] = out
        else:
            self.answers.append((" ".join(("gateway", *words)), frozenset(), out))
        return out

    # -- searching -------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """All files beside the store but the configuration and the two that hold keys to it."""
        beside = Path(self.gateway.path).parent
        found = {path.name: path.read_bytes() for path in beside.rglob("*") if path.is_file()}
        return {name: blob for name, blob in found.items() if not name.endswith(".toml")}

    def places(self) -> dict[str, bytes]:
        """Everything that was written: files, log and what the process can be seen to be."""
        found = self.files()
        found["log"] = "\n".join(self.gateway.log).encode()
        with contextlib.suppress(AssertionError, FileNotFoundError):
            found["cmdline"] = Path(f"/proc/{self.gateway.pid}/cmdline").read_bytes()
        return found

    def hits_in_files(self) -> set[str]:
        """What is found in which file, or in the log."""
        found = set()
        for place, blob in self.places().items():
            here = self.canaries.found_in(blob)
            for kept, suffix in (("master key", ".master"), ("server secret", ".secret")):
                if place.endswith(suffix):
                    here = {name for name in here if not name.startswith(kept)}
            found |= {f"{name} in {place}" for name in here}
        return found

    def hits_in_answers(self) -> set[str]:
        """What is found in which answer, or in the output of which command."""
        found = set()
        whole = b"\n".join(blob for _, _, blob in self.answers)
        for name in self.canaries.found_in(whole):
            found |= {
                f"{name} in the answer to {what}"
                for what, own, blob in self.answers
                if name not in own and name in self.canaries.found_in(blob)
            }
        for name, blob in self.issued.items():
            others = self.canaries.found_in(blob) - {name}
            found |= {f"{other} in the answer that issues {name}" for other in others}
        return found


JSON = (b"Content-Type", b"application/json")


def bearer(text: str) -> Fields:
    return [(b"Authorization", b"Bearer " + text.encode())]


def credential(slot: str, text: str) -> tuple[Fields, str]:
    """Header fields and query that carry a credential in a slot."""
    if slot == "?key=":
        return [], f"?key={text}"
    if slot == "Authorization":
        return bearer(text), ""
    return [(slot.encode(), text.encode())], ""


def chat(model: str, prompt: str, *, stream: bool = False) -> bytes:
    """A request whose prompt is nobody's business either."""
    return orjson.dumps(
        {
            "model": model, "stream": stream, "max_tokens": 5,
            "messages": [{"role": "user", "content": prompt}],
        }
    )  # fmt: skip


def calls_of_callers_own_keys(site: Site) -> Iterable[Ask]:
    """Each slot through every way in which a provider can answer, and the gateway's own pages."""
    prompt = site.canaries.known["prompt"]
    for slot in SLOTS:
        name = f"own key in {slot}"
        fields, query = credential(slot, site.canaries.known[name])
        for mode in (*MODES, "dead"):
            own = frozenset({name} if mode in QUOTES else ())
            body = chat("gpt-4o-mini", prompt, stream=mode in ("stream", "event", "tail"))
            yield Ask(f"/v1/{mode}/chat/completions{query}", [*fields, JSON], body, own=own)
        version = (b"anthropic-version", b"2023-06-01")
        body = chat("claude-haiku-4-5", prompt)
        yield Ask(f"/v1/messages{query}", [*fields, version, JSON], body)
        gemini = f"/v1beta/models/gemini-2.5-flash:generateContent{query}"
        yield Ask(gemini, [*fields, JSON], b'{"contents":[]}')
        yield Ask(f"/v1/chat/completions{query}", [*fields, JSON], b"not json " + prompt.encode())
        yield Ask(f"/v1/chat/completions{query}", [*fields, JSON], chat(DYE, prompt))
        for page in ("receipts", "receipts/none", "models", "account", "usage", "nothing/.."):
            yield Ask(f"/v1/{page}{query}", fields, method="GET")
        yield Ask(f"/admin/v1/users{query}", fields, method="GET")
        yield Ask(f"/v1/files/../x{query}", fields, method="DELETE")


def calls_of_gateway_keys(site: Site) -> Iterable[Ask]:
    known = site.canaries.known
    prompt = known["prompt"]
    for name in ("gateway key", "revoked key", "suspended key", "mistyped key", "unknown key",
                 "expired key", "admin key", "removed provider key"):  # fmt: skip
        fields = bearer(known[name])
        for page in ("receipts?limit=20", "account", "usage", "models"):
            yield Ask(f"/v1/{page}", fields, method="GET")
        for page in ("users", "keys", "providers", "receipts", "in-flight", "models"):
            yield Ask(f"/admin/v1/{page}", fields, method="GET")
        yield Ask("/v1/chat/completions", [*fields, JSON], chat("fine/gpt-4o-mini", prompt))
        yield Ask("/v1/chat/completions", [*fields, JSON], chat(DYE, prompt))
    fields = bearer(known["gateway key"])
    version = (b"anthropic-version", b"2023-06-01")
    yield Ask("/v1/messages", [*fields, version, JSON], chat("claude-haiku-4-5", prompt))
    gemini = "/v1beta/models/gemini-2.5-flash:generateContent"
    yield Ask(gemini, [*fields, JSON], b'{"contents":[]}')
    yield Ask("/v1/chat/completions", [*fields, JSON], chat("openai/gpt-4o-mini", prompt))
    for mode in (*MODES, "dead"):
        body = chat(f"{mode}/gpt-4o-mini", prompt, stream=mode in ("stream", "event", "tail"))
        yield Ask("/v1/chat/completions", [*fields, JSON], body)
        # The same through a translation, which words errors anew.
        yield Ask("/v1/messages", [*fields, version, JSON], body)
    yield Ask("/v1/chat/completions", [*fields, JSON], chat("several", prompt))
    yield Ask("/v1/chat/completions", [*fields, JSON], chat("several", prompt, stream=True))
    for slot in SLOTS[1:]:  # one of each beside it: neither may be told of the other
        beside, query = credential(slot, known["key beside another"])
        body = chat("status400/gpt-4o-mini", prompt)
        yield Ask(f"/v1/chat/completions{query}", [*fields, *beside, JSON], body)
    form = (b"Content-Type", b"multipart/form-data; boundary=b")
    content = known["content of a file"].encode()
    upload = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n%b\r\n--b--\r\n' % content
    for mode in ("fine", "status400", "status500", "fields", "cut", "dead"):
        yield Ask(f"/v1/{mode}/files", [*fields, form], upload)
    for text in ("mistyped code", "redeemed code", "unknown code"):
        body = orjson.dumps({"code": known[text]})
        yield Ask("/v1/account/redeem", [*fields, JSON], body)
        yield Ask("/v1/account/redeem", [*fields, JSON], body[:-2])


PATHS = (
    "/{}", "/v1/{}", "/v1/{}/..", "/v1/{}/chat/completions", "/admin/{}", "/v1/receipts/{}",
    "/v1/files/{}", "/v1/anthropic/{}",
)  # fmt: skip


def calls_of_nobody(site: Site) -> Iterable[Ask]:
    """Credentials where none belong, and requests that are not HTTP."""
    known = site.canaries.known
    basic = base64.b64encode(b"user:" + known["basic password"].encode())
    wrong: list[Fields] = [
        [(b"Authorization", b"Basic " + basic)],
        [(b"Authorization", known["no scheme"].encode())],
        [(b"Cookie", b"session=" + known["cookie"].encode())],
        [(b"Proxy-Authorization", b"Basic " + known["proxy password"].encode())],
        [*bearer(known["doubled key"]), *bearer(known["basic password"])],
    ]
    prompt = known["prompt"]
    for fields in wrong:
        for target in ("/v1/chat/completions", "/v1/models", "/admin/v1/users", "/v1/x/y"):
            yield Ask(target, fields, method="GET")
            yield Ask(target, [*fields, JSON], chat("gpt-4o-mini", prompt))
        own = [*bearer(known["gateway key"]), *fields, JSON]
        yield Ask("/v1/chat/completions", own, chat("status400/gpt-4o-mini", prompt))
    keyed = bearer(known["gateway key"])
    for query in ("api_key", "access_token", "key"):
        other = known[f"parameter {query}"]
        yield Ask(f"/v1/models?{query}={other}&{query}={other}", keyed, method="GET")
        yield Ask(f"/nowhere?{query}={other}", method="GET")
        yield Ask(f"/v1/chat/completions?{query}={other}", [*keyed, JSON],
                  chat("fine/gpt-4o-mini", prompt))  # fmt: skip
    for text in (known["key in a path"], known["gateway key in a path"]):
        for place in PATHS:
            target = place.format(text)
            yield Ask(target, keyed, method="GET")
            yield Ask(target, [*keyed, JSON], b"{}")
            yield Ask(target, method="GET")
    bad = known["malformed line"].encode()
    for raw in (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization %b\r\n\r\n" % bad,
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x00%b\r\n\r\n" % bad,
        b"GET /v1/models?key=%b HTTP/9.x\r\nHost: x\r\n\r\n" % bad,
        b"%b /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" % bad,
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nx-api-key: %b%b\r\n\r\n" % (bad, b"x" * 20_000),
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n" % bad,
        b"POST http://user:%b@h/v1/none/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n" % bad,
    ):
        yield Ask(raw[:20].decode(), raw=raw)

"""Canary secrets through everything that the gateway says and writes: not one may be found again.

Callers' keys in every slot, gateway keys good and bad, the operator's keys from the file, the
environment and the vault, tokens, codes, passwords, addresses: each goes through success and every
failure, at every log level, as text and JSON, while providers, the mail server and the webhook
quote all that they are told. Then log, output, answers, store, write-ahead log and every other file
are searched. A secret may be in the answer that issues it, and in the words of an upstream that
quotes a caller's own key to that caller; nowhere else.
"""

import asyncio
import base64
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import orjson
import pytest
from fault_gateway import FULL, Gateway, Setup, eventually, running, seeded
from fault_secrets import MODES, Canaries, quoting_provider, told_servers
from fault_watched import (
    DYE,
    JSON,
    SLOTS,
    Ask,
    Site,
    bearer,
    calls_of_callers_own_keys,
    calls_of_gateway_keys,
    calls_of_nobody,
    chat,
)
from harness import Upstream

from gateway.accounts import keys as key_texts
from gateway.accounts import secret as server_secret
from gateway.accounts import vault

pytestmark = pytest.mark.faults

LEVELS = ("debug", "info", "warning", "error")
ALL_ROUNDS = tuple(itertools.product(LEVELS, ("text", "json")))
ROUNDS = ALL_ROUNDS if FULL else (ALL_ROUNDS[0], ALL_ROUNDS[3], ALL_ROUNDS[4], ALL_ROUNDS[7])
"""Log levels and formats: in the short run each of them once or twice."""

BAD_FILES = {
    "keys": 'keys = "{}"',
    "keys in keys": 'keys = [["{}"]]',
    "base URL with a password": 'base_url = "https://u:{}@h/v1"',
    "base URL without its host": 'base_url = "https://u:{}/v1"',
    "base URL with a query": 'base_url = "https://h/v1?key={}"',
    "base URL with brackets": 'base_url = "https://[{}]/v1"',
    "smtp_password": '[alerts]\nsmtp_password = ["{}"]',
    "lonely smtp_password": '[alerts]\nsmtp_password = "{}"',
    "webhook_secret": '[alerts]\nwebhook_secret = {{ a = "{}" }}',
    "webhook_url": '[alerts]\nwebhook_url = "ftp://u:{}@h/"',
    "webhook port": '[alerts]\nwebhook_url = "http://u:{}/x"',
    "token": '[admin]\ntoken = ["{}"]',
    "no TOML": '[admin]\ntoken = "{}',
    "twice": '[admin]\ntoken = "{0}"\ntoken = "{0}"',
}  # fmt: skip
"""Files that hold a secret in a wrong way; the first six inside of a provider."""


def spoilt(name: str, known: dict[str, str]) -> str:
    text = BAD_FILES[name].format(known[f"bad file: {name}"])
    if not text.startswith("["):
        rest = "" if "base_url" in text else 'base_url = "https://h/v1"\n'
        text = f'[providers.bad]\nformat = "openai"\n{rest}{text}'
    return text


# --- the test ---------------------------------------------------------------------------------


def made(canaries: Canaries) -> None:
    """The secrets that are known before the gateway starts."""
    for name in ("openai", "anthropic", "google", "dead", *MODES):
        canaries.make(f"key of {name}")
    for slot in SLOTS:
        canaries.make(f"own key in {slot}")
    for name in (
        "admin token", "smtp password", "webhook password", "webhook path", "webhook query",
        "webhook secret", "prompt", "content of a file", "vault key", "typed vault key",
        "removed provider key", "refused vault key", "key of an unknown provider",
        "key beside another", "basic password", "no scheme", "cookie", "proxy password",
        "doubled key", "malformed line", "parameter api_key", "parameter access_token",
        "parameter key", "admin base URL", "admin query",
    ):  # fmt: skip
        canaries.make(name)
    canaries.make("key in a path", "sk-proj-{}")
    for name, prefix in (("mistyped key", "gw-"), ("mistyped code", "code-"),
                         ("gateway key in a path", "gw-")):  # fmt: skip
        canaries.add(name, canaries.make(f"{name}, its shape", prefix + "{}") + "abcdEFGHij")
    canaries.add("unknown key", key_texts.mint("gw-"), shown=7)
    canaries.add("unknown code", key_texts.mint("code-"), shown=9)
    for name in BAD_FILES:
        canaries.make(f"bad file: {name}")


async def issue(site: Site) -> None:
    """Everything that an admin can make: users, keys, links, codes, provider keys."""
    admin, known = site.admin, site.canaries.known

    async def key(name: str, user: str, **more: object) -> str:
        answer = await admin("POST", "/keys", {"user": user, **more}, issues=name)
        # The hint is the prefix and four characters more.
        site.canaries.add(name, str(answer["key"]), shown=7)
        return str(answer["id"])

    for user, is_admin in (("ann", False), ("bob", False), ("root", True)):
        await admin("POST", "/users", {"name": user, "admin": is_admin})
        await admin("POST", f"/users/{user}/credits", {"amount": "50.00"})
    await key("gateway key", "ann", rpm=1_000_000, tpm=1_000_000_000, concurrent=1000)
    await key("suspended key", "bob")
    await admin("POST", "/users/bob/suspend")
    revoked = await key("revoked key", "ann")
    await admin("DELETE", f"/keys/{revoked}")
    await key("admin key", "root", admin=True)
    await key("expired key", "ann", expires_ms=time.time_ns() // 1_000_000 + 500)
    for name in ("void link", "sign-in link"):
        answer = await admin("POST", "/users/root/sign-in-link", issues=name)
        site.canaries.add(name, str(answer["token"]))
    await admin("DELETE", "/users/root/sessions")
    for name in ("redeemed code", "unused code"):
        answer = await admin("POST", "/codes", {"amount": "1.00"}, issues=name)
        codes = answer["data"]
        assert isinstance(codes, list)
        site.canaries.add(name, codes[0]["code"], shown=9)
    await admin("POST", "/codes/redeem", {"code": known["redeemed code"], "user": "ann"})
    await admin("POST", "/codes/redeem", {"code": known["redeemed code"], "user": "ann"})
    await admin("POST", "/codes/redeem", {"code": known["mistyped code"], "user": "ann"})
    await admin("POST", "/providers/fine/keys", {"key": known["vault key"]})
    removed = await admin("POST", "/providers/fine/keys", {"key": known["removed provider key"]})
    await admin("DELETE", f"/providers/fine/keys/{removed['id']}")
    await admin("POST", "/providers/fine/keys", {"key": f"with space {known['refused vault key']}"})
    await admin("POST", "/providers/fine/keys", {"key": [known["refused vault key"]]})
    await admin("POST", "/providers/none/keys", {"key": known["key of an unknown provider"]})
    await admin("POST", "/providers/rotate-master")
    for url in (
        f"https://u:{known['admin base URL']}@h.invalid/v1",
        f"https://u:{known['admin base URL']}/v1",
        f"https://h.invalid/v1?key={known['admin query']}",
    ):
        await admin("PUT", "/providers/moved", {"format": "openai", "base_url": url})
    out = await site.command(
        "providers", "add-key", "openai", "--json", "--config", str(site.gateway.config),
        stdin=known["typed vault key"] + "\n",
    )  # fmt: skip
    assert orjson.loads(out)["state"] == "usable"


async def commands(site: Site) -> None:
    """What the command prints, for people and as JSON; the bad files, as it sees them."""
    config = ("--config", str(site.gateway.config))
    for words in (
        ("check-config",), ("users", "list"), ("keys", "list"), ("codes", "list"),
        ("providers", "list"), ("receipts", "list", "--limit", "500"), ("usage", "--by", "key"),
        ("receipts", "export"), ("ledger", "check"), ("models", "list", "--changed"),
    ):  # fmt: skip
        await site.command(*words, "--json", *config)
    await site.command("providers", "list", *config)
    await site.command("receipts", "export", "--format", "csv", *config)
    await site.command("providers", "rotate-master", "--json", *config)
    await site.command(
        "codes", "redeem", "--user", "ann", site.canaries.known["unknown code"], *config
    )
    out = await site.command("codes", "create", "1", "--json", *config, issues="code of a command")
    site.canaries.add("code of a command", orjson.loads(out)["data"][0]["code"], shown=9)
    made = ("users", "create", "boss", "--admin", "--json")
    out = await site.command(*made, *config, issues="link of a command")
    site.canaries.add("link of a command", orjson.loads(out)["sign_in_link"]["token"])
    await site.command("codes", "list", "--json", *config)


async def bad_files(site: Site, level: str, form: str, names: Iterable[str]) -> None:
    """Each is refused by signal and by verb, and says why without its secret."""
    for name in names:
        bad = spoilt(name, site.canaries.known)
        site.gateway.config.write_text(site.text(level, form) + bad if "[alerts]" not in bad
                                       and "[admin]" not in bad else bad)  # fmt: skip
        told = await site.admin("POST", "/reload")
        assert "nothing was changed" in str(told), (name, told)
        lines = len(site.gateway.log)
        site.gateway.hang_up()
        await logged(site.gateway, "not reloaded", lines)


async def logged(gateway: Gateway, what: str, since: int) -> None:
    async def count() -> int:
        return sum(what in line for line in gateway.log[since:])

    await eventually(count, bool, 10)


EXPECTED = re.compile("not reloaded, nothing was changed")


def delivered(site: Site) -> None:
    """The secrets did go where they belong, and no further: else nothing was tried."""
    known = site.canaries.known
    sent = b"\n".join(call.head + call.body for call in site.upstream.calls)
    told = bytes(site.told.mail + site.told.posts)
    for name in (
        *(f"own key in {slot}" for slot in SLOTS), *(f"key of {mode}" for mode in MODES),
        "key of openai", "key of anthropic", "key of google", "vault key", "typed vault key",
        "prompt", "content of a file", "parameter api_key",
    ):  # fmt: skip
        assert known[name].encode() in sent, name
    for name in (
        "gateway key", "key beside another", "cookie", "proxy password", "basic password",
        "no scheme", "parameter key", "admin token", "key of dead", "key of an unknown provider",
    ):  # fmt: skip
        assert known[name].encode() not in sent, name
    basic = base64.b64encode(b"hook:" + known["webhook password"].encode())
    for text in (known["smtp password"], known["webhook path"], known["webhook query"]):
        assert text.encode() in told
    assert basic in told
    assert site.told.refusals <= 0
    assert {200, 400, 401, 403, 404, 429, 502, 503, 504} <= site.statuses, site.statuses


def found_dye(site: Site) -> None:
    """What is no secret is found in all places that are searched."""
    places = site.places()
    places["store"] = b"".join(blob for name, blob in places.items() if "gateway.db" in name)
    places["answers"] = b"".join(blob for _, _, blob in site.answers)
    for place in ("log", "store", "answers"):
        assert DYE.encode() in places[place], place


@contextlib.asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[Site]:
    """A gateway with all its secrets, and everybody who quotes them."""
    canaries = Canaries(seeded(41))
    made(canaries)
    store = directory / "store"
    store.mkdir()
    async with (
        told_servers(directory) as told,
        Upstream(quoting_provider).running() as upstream,
        running(store, Setup(int(upstream.url.rpartition(":")[2]))) as gateway,
    ):
        await gateway.stop()
        gateway.environment = {
            "CANARY_ANTHROPIC": canaries.known["key of anthropic"],
            "CANARY_GOOGLE": canaries.known["key of google"],
            "CANARY_SMTP": canaries.known["smtp password"],
        }
        gateway.expected_errors = EXPECTED
        canaries.add("loader's key", gateway.key, shown=7)
        site = Site(gateway, upstream, told, canaries)
        gateway.config.write_text(site.text(*ROUNDS[0]))
        await gateway.start()
        yield site


async def drive(site: Site) -> None:
    await site.ask_all([
        *calls_of_callers_own_keys(site), *calls_of_gateway_keys(site), *calls_of_nobody(site),
    ])  # fmt: skip
    for path in ("/metrics", "/healthz", "/readyz", "/openapi.json", "/"):
        await site.ask(Ask(path, method="GET"))
    for path in (
        "/users", "/keys", "/codes", "/providers", "/models?changed=true", "/receipts?limit=400",
        "/usage?group_by=user,key,provider,model", "/in-flight", "/ledger/check",
    ):  # fmt: skip
        await site.admin("GET", path)


def know_master_keys(site: Site) -> None:
    """Those that seal provider keys, and the server's secret: made by the gateway itself."""
    path = site.gateway.path
    site.canaries.add_bytes("server secret", server_secret.load(path))
    masters = vault.path_of(path).read_text().split()
    for number, master in enumerate(masters):
        site.canaries.add_bytes(f"master key {number}", bytes.fromhex(master))
    assert masters


async def killed_in_the_middle(site: Site) -> None:
    """`kill -9` while requests wait: what is left is the log as it was at that moment."""
    fields = [*bearer(site.canaries.known["gateway key"]), JSON]
    body = chat("silent/gpt-4o-mini", site.canaries.known["prompt"])
    ask = Ask("/v1/chat/completions", fields, body)
    tasks = [asyncio.get_running_loop().create_task(site.ask(ask)) for _ in range(8)]
    await eventually(site.gateway.in_flight, lambda count: count == len(tasks), 10)
    await site.gateway.kill()
    await asyncio.gather(*tasks)


async def test_no_canary_is_found_anywhere(tmp_path: Path) -> None:
    async with watched(tmp_path) as site:
        gateway = site.gateway
        await issue(site)
        names = list(BAD_FILES)
        for number, (level, form) in enumerate(ROUNDS):
            gateway.config.write_text(site.text(level, form))
            await site.admin("POST", "/reload")
            await drive(site)
            await bad_files(site, level, form, names[number :: len(ROUNDS)])
        gateway.config.write_text(site.text("debug", "text"))
        await site.admin("POST", "/reload")
        await commands(site)
        know_master_keys(site)
        found_dye(site)
        delivered(site)
        hits = site.hits_in_files()
        await killed_in_the_middle(site)
        hits |= site.hits_in_files()
        gateway.environment |= {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}
        await gateway.start()
        await drive(site)
        await gateway.stop()
        hits |= site.hits_in_files() | site.hits_in_answers()
    assert len(site.canaries.known) >= 30
    print(  # noqa: T201
        f"{len(site.canaries.known)} canaries, {len(site.answers)} answers, "
        f"{len(gateway.log)} log lines, statuses {sorted(site.statuses)}: {len(hits)} hits"
    )
    assert not hits, "\n".join(sorted(hits))


def test_the_search_finds_a_secret_in_part_and_encoded() -> None:
    canaries = Canaries(seeded(42))
    text = canaries.make("key")
    canaries.add_bytes("master", bytes(range(100, 132)))
    assert canaries.found_in(b"a log line that quotes " + text[:13].encode()) == {"key"}
    assert canaries.found_in(b'{"hint":"' + text[-12:].encode() + b'"}') == {"key"}
    for user in (b"u:", b"me:", b"you:"):
        assert canaries.found_in(base64.b64encode(user + text.encode() + b"!")) == {"key"}
    assert canaries.found_in(text.encode().hex().encode()) == {"key"}
    assert canaries.found_in(b"\0\1" + bytes(range(108, 126)) + b"\0") == {"master"}
    assert canaries.found_in(bytes(range(100, 132)).hex().encode()) == {"master"}
    assert canaries.found_in(b"nothing of it: " + text[:8].encode() + b"...") == set()

"""The documentation: every page for everybody, its own address in it, tables that are true."""

import ast
import html
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from web_client import Seen, WebSite, web_site

from gateway.accounts.accounts import KeySpec
from gateway.accounts.changes import UserChanges
from gateway.admin.routes import ROUTES
from gateway.admin.verbs import VERBS
from gateway.api.models import billed_price, offered
from gateway.api.openapi import document
from gateway.errors import CODES
from gateway.ledger.prices import usd_text
from gateway.web import pricing
from gateway.web.docs import DOCS
from gateway.web.samples import Filled, Filling, templates
from gateway.wire import registry
from gateway.wire.build_table import TITLES, lost

ROOT = Path(__file__).resolve().parents[2]
PATHS = [doc.path for doc in DOCS]
PAGE_BYTES_MAX = 400_000

FAMILIES = {"anthropic": "anthropic", "google": "gemini"}
EVERY_PROVIDER = "\n".join(
    f'[providers.{name}]\nformat = "{FAMILIES.get(name, "openai")}"\n'
    'base_url = "http://127.0.0.1:9/v1"\nkeys = ["k"]'
    for name in (
        "openai", "anthropic", "google", "deepseek", "moonshot", "mistral", "xai", "cohere",
        "perplexity", "zai", "minimax", "groq", "cerebras", "together", "fireworks", "azure",
    )
)  # fmt: skip
HOSTILE = 'it\'s "<img src=x onerror=alert(1)>" $(id) `id` \\'


def resources(seen: Seen) -> list[str]:
    """What a browser loads by itself."""
    found = re.findall(
        r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="([^"]*)"', seen.text
    )
    return [html.unescape(one) for one in found]


# --- every page -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_is_for_everybody_and_loads_nothing_from_elsewhere(
    site: WebSite, path: str
) -> None:
    for visitor in (site.visitor(), await site.user("ada")):
        seen = await visitor.get(path)
        assert (seen.status, seen.path) == (200, path)
        assert resources(seen)
        assert all(one.startswith("/dashboard/static/") for one in resources(seen))
        assert not re.search(r'\s(?:style|on[a-z]+)="', seen.text)
        assert "default-src 'none'" in seen.headers["Content-Security-Policy"]
        async with visitor.session.head(visitor.base + path) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_every_anchor_and_every_page_that_is_linked_is_there(
    site: WebSite, path: str
) -> None:
    visitor = site.visitor()
    seen = await visitor.get(path)
    pages: dict[str, Seen] = {path: seen}
    for link in set(re.findall(r'href="([^"]+)"', seen.text)):
        target, _, anchor = html.unescape(link).partition("#")
        target = target or path
        if target.startswith("/dashboard/") and "static" not in target:
            continue  # pages of others, behind the sign-in
        if target not in pages:
            pages[target] = await visitor.get(target)
            assert pages[target].status == 200, link
        if anchor and target.startswith("/docs"):
            assert f'id="{anchor}"' in pages[target].text, link


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.path)
async def test_sections_stand_in_the_order_of_the_table_of_contents(
    site: WebSite, doc: Any
) -> None:
    seen = await site.visitor().get(doc.path)
    if doc.sections:
        assert re.findall(r'<h2 id="([^"]+)">', seen.text) == list(doc.sections)
    ids = re.findall(r'\sid="([^"]+)"', seen.text)
    assert len(ids) == len(set(ids))
    assert seen.text.count('aria-current="page"') == 1
    assert seen.text.count("<h1>") == 1


_PANEL = re.compile(r'<div role="tabpanel" id="([a-z_]+)-p\d+".*?</div>\s*</div>', re.DOTALL)


def boxes(text: str) -> list[tuple[str, str]]:
    """The code that is no sample, with the attribute that names its language."""
    found = re.findall(
        r"<pre[^>]*><code([^>]*)>(.*?)</code>", _PANEL.sub("", text), re.DOTALL
    )  # fmt: skip
    return [(kind, html.unescape(code)) for kind, code in found]


async def test_a_box_of_code_is_a_sample_or_json_or_the_sum(site: WebSite) -> None:
    visitor = site.visitor()
    names = set()
    for path in PATHS:
        text = (await visitor.get(path)).text
        names |= set(_PANEL.findall(text))
        for kind, code in boxes(text):
            if kind:
                assert kind == ' class="language-json"', code
                msgspec.json.decode(code)
            else:
                assert code.startswith("cost = "), code
    # No provider of OpenAI's API is configured, to which an own key could go.
    assert names == templates().keys() - {"byok"} | {"first_call"}


async def test_a_page_that_is_none_is_404(site: WebSite) -> None:
    seen = await site.visitor().get("/docs/nothing")
    assert seen.status == 404
    assert "There is no such page" in seen.words
    assert (await site.visitor().get("/docs/")).path == "/docs"


# --- who looks --------------------------------------------------------------------------------


async def test_samples_have_the_address_that_was_asked_and_the_public_one(
    site: WebSite, tmp_path: Path
) -> None:
    visitor = site.visitor()
    seen = await visitor.get("/docs/sdks")
    assert f'OpenAI(base_url="{visitor.base}/v1", api_key="YOUR_KEY")' in html.unescape(seen.text)
    (tmp_path / "other").mkdir()
    public = '[dashboard]\npublic_url = "https://llm.example.org"'
    async with web_site(tmp_path / "other", public) as elsewhere:
        seen = await elsewhere.visitor().get("/docs/chat")
        assert "curl 'https://llm.example.org/v1/chat/completions'" in html.unescape(seen.text)
        assert "127.0.0.1" not in seen.text


async def test_who_is_signed_in_sees_the_beginning_of_a_key_that_works(site: WebSite) -> None:
    ada = await site.user("ada")
    nobody = await ada.get("/docs/chat")
    assert "Bearer YOUR_KEY" in nobody.text
    assert "Create one" in (await ada.get("/docs")).words
    made, text = await site.running.gateway.accounts.create_key("ada")
    hint = made.hint
    seen = await ada.get("/docs/chat")
    assert f"Bearer {hint}…" in seen.text
    assert "YOUR_KEY" not in seen.text
    for path in PATHS:
        assert text not in (await ada.get(path)).text
    assert hint not in (await site.visitor().get("/docs/chat")).text
    other = await site.user("bob")
    assert hint not in (await other.get("/docs/chat")).text


async def test_keys_that_cannot_call_are_not_offered(site: WebSite) -> None:
    root = await site.user("root", admin=True)
    accounts = site.running.gateway.accounts
    admin, _ = await accounts.create_key("root", KeySpec(admin=True))
    revoked, _ = await accounts.create_key("root")
    await accounts.revoke_key(revoked.id)
    seen = await root.get("/docs/chat")
    assert admin.hint not in seen.text
    assert revoked.hint not in seen.text
    assert "Bearer YOUR_KEY" in seen.text


async def test_a_sample_names_a_model_that_the_key_may_call(site: WebSite) -> None:
    ada = await site.user("ada")
    assert '"model": "basic"' in html.unescape((await ada.get("/docs/chat")).text)
    await site.running.gateway.accounts.create_key("ada", KeySpec(models=("demo",)))
    assert '"model": "demo"' in html.unescape((await ada.get("/docs/chat")).text)


# --- what samples are filled with -------------------------------------------------------------


def test_hostile_names_are_quoted_for_every_language() -> None:
    filling = Filling(
        base_url="http://h", key=HOSTILE, model=HOSTILE, embedding=HOSTILE,
        receipt_id_header="X-Id", receipt_url_header="X-Url",
    )  # fmt: skip
    own = {HOSTILE, f"openai/{HOSTILE}", "no-such-model", "gpt-4o-mini"}
    filled = Filled(filling)
    samples = [one for name in filled for one in filled[name]]
    assert len(samples) > 85
    for sample in samples:
        assert not re.search(r"@[A-Z_]+(:[a-z]+)?@", sample.text), sample
        if sample.language == "python":
            assert set(models_of(ast.parse(sample.text))) <= own, sample
        elif sample.language == "toml":
            assert tomllib.loads(sample.text)["model"] == HOSTILE
        elif sample.language == "json":
            msgspec.json.decode(sample.text)
        elif sample.language == "bash":
            words = shlex.split(sample.text.replace("\\\n", ""), comments=True)
            if "-d" in words:
                body = msgspec.json.decode(words[words.index("-d") + 1])
                assert body.get("model", HOSTILE) in own, sample


def models_of(tree: ast.AST) -> list[object]:
    return [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "model"
        if isinstance(node.value, ast.Constant)
    ]


async def test_hostile_names_are_escaped_on_pages(tmp_path: Path) -> None:
    more = f'[models.{msgspec.json.encode(HOSTILE).decode()}]\ntargets = ["demo/demo"]'
    async with web_site(tmp_path, more) as site:
        ada = await site.user("ada")
        await site.running.gateway.accounts.create_key("ada", KeySpec(models=(HOSTILE,)))
        for path in PATHS:
            seen = await ada.get(path)
            assert seen.status == 200
            assert "<img src=x" not in seen.text
        assert HOSTILE in html.unescape((await ada.get("/docs/pricing")).text)
        assert HOSTILE in html.unescape((await ada.get("/docs/models")).text)


# --- tables -----------------------------------------------------------------------------------


async def test_every_code_is_told_with_its_status(site: WebSite) -> None:
    words = (await site.visitor().get("/docs/errors")).text
    rows = re.findall(
        r'<tr id="([a-z_]+)"><td class="num">(\d+)</td>.*?(try again)?</td>', words, re.DOTALL
    )
    assert {code: int(status) for code, status, _ in rows} == {
        code: status for code, (status, _, _) in CODES.items()
    }


async def test_the_readme_charges_the_same(site: WebSite) -> None:
    words = (await site.visitor().get("/docs/billing")).words
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Billing")[1].split("\n\n")[1].splitlines()
    assert len(table) == 10
    for row in table[2:]:
        cells = [
            cell.strip().replace("`", "").replace(" (default):", "") for cell in row.split("|")
        ]
        ended, charged, source = cells[1:4]
        told = words.replace(" (default)", "").replace(" :", ":").replace(":", "")
        assert f"{ended.replace(':', '')} {charged} {source}" in told, row


async def test_what_formats_lose_is_what_the_translation_refuses(site: WebSite) -> None:
    words = (await site.visitor().get("/docs/tools")).words
    for caller in registry.DIALECTS.values():
        mine = words.split(f"From {TITLES[caller.name]} ")[1].split(" From ")[0]
        for target in registry.DIALECTS.values():
            if target is caller:
                continue
            refused, ignored = (
                " ".join(lost(caller, target, how)) or "nothing" for how in ("refused", "ignored")
            )
            expected = f"to {TITLES[target.name]} Refused {refused} Left out {ignored}"
            assert expected in mine


async def test_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    more = (
        "[limits]\nrpm = 1234\ntpm = 56789\nconcurrent = 43\n"
        "[billing]\ndefault_max_output_tokens = 8765\n"
        "[byok]\nenabled = false\n"
    )
    async with web_site(tmp_path, more) as site:
        visitor = site.visitor()
        limits = (await visitor.get("/docs/limits")).words
        for text in ("1,234", "56,789", "43 for a key"):
            assert text in limits
        assert "8,765" in (await visitor.get("/docs/billing")).words
        assert "keys of its own only" in (await visitor.get("/docs/authentication")).words


@pytest.mark.parametrize(
    ("page", "path"),
    [
        ("/docs/models", "/v1/models/demo"),
        ("/docs/account", "/v1/account"),
        ("/docs/receipts", "/v1/receipts?limit=1"),
    ],
)
async def test_an_example_of_an_answer_has_the_fields_of_the_answer(
    site: WebSite, page: str, path: str
) -> None:
    ada = await site.user("ada")
    _, key = await site.running.gateway.accounts.create_key("ada")
    said = b'{"model":"basic","messages":[{"role":"user","content":"Hi"}]}'
    assert (await site.running.call("/v1/chat/completions", said, key=key.encode())).status == 200
    headers = {"Authorization": f"Bearer {key}"}
    async with ada.session.get(ada.base + path, headers=headers) as answer:
        real = msgspec.json.decode(await answer.read())
    (example,) = (code for kind, code in boxes((await ada.get(page)).text) if kind)
    shape = shape_of(msgspec.json.decode(example))
    assert shape == shape_of(real["data"][0] if "data" in real else real)


def shape_of(value: Any) -> Any:
    """The names of fields, in all depths, but for those that come and go: prices, rare tokens."""
    if isinstance(value, dict):
        known = {key for key in value if not key.endswith(("_per_mtok", "_audio_tokens"))}
        return {key: shape_of(value[key]) for key in sorted(known)}
    if isinstance(value, list):
        return shape_of(value[0]) if value else None
    return None


# --- prices -----------------------------------------------------------------------------------


def shown(nano_usd: int) -> str:
    whole, _, decimals = usd_text(nano_usd).partition(".")
    return f"${int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"


async def test_prices_are_exact_and_those_of_all_that_can_be_called(tmp_path: Path) -> None:
    async with web_site(tmp_path, EVERY_PROVIDER) as site:
        seen = await site.visitor().get("/docs/pricing")
        listed = list(offered(site.running.gateway.services, "1"))
        assert len(listed) > 500
        assert len(seen.text.encode()) < PAGE_BYTES_MAX
        rows = re.findall(r"<tr><td><code>(.*?)</code>(.*?)</tr>", seen.text, re.DOTALL)
        assert [html.unescape(name) for name, _ in rows] == [one.id for one in listed]
        for one, (_, rest) in zip(listed, rows, strict=True):
            price = billed_price(one.model.price, one.multiplier)
            assert f'<td class="num">{shown(price.input)}</td>' in rest, one.id
            if price.output:
                assert f'<td class="num">{shown(price.output)}</td>' in rest, one.id
            if price.input_audio is not None:
                assert f"audio in {shown(price.input_audio)}" in rest, one.id
            for tier in price.tiers:
                assert f"above {tier.above:,} in: in {shown(tier.price.input)}" in rest, one.id


async def test_a_search_finds_words_of_names_providers_and_kinds(site: WebSite) -> None:
    visitor = site.visitor()
    found = await visitor.get("/docs/pricing?q=DEMO+embed")
    assert re.findall(r"<td><code>(.*?)</code>", found.text) == ["demo-embed"]
    assert "1 of 1 found, 3 in all" in found.words
    none = await visitor.get("/docs/pricing?q=%3Cscript%3Ealert(1)%3C/script%3E")
    assert "No model has" in none.words
    assert "<script>alert" not in none.text


async def test_a_long_list_is_cut_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pricing, "ROWS_MAX", 2)
    async with web_site(tmp_path) as site:
        seen = await site.visitor().get("/docs/pricing")
        assert "The first 2 of 3" in seen.words
        assert seen.text.count("<tr><td>") == 2


async def test_a_models_multiplier_is_in_the_price_and_a_users_own_is_not(site: WebSite) -> None:
    gateway = site.running.gateway
    ada = await site.user("ada")
    await gateway.accounts.update_user("ada", UserChanges(rate_multiplier="3"))
    seen = (await ada.get("/docs/pricing")).words
    assert "demo demo $1.00 $2.00" in seen
    assert "before your own multiplier of 3" in seen
    root = await site.user("root", admin=True)
    _, key = await gateway.accounts.create_key("root", KeySpec(admin=True))
    async with root.session.put(
        root.base + "/admin/v1/models/demo/demo",
        json={"multiplier": "1.5"}, headers={"Authorization": f"Bearer {key}"},
    ) as answer:  # fmt: skip
        assert answer.status == 200, await answer.text()
    assert "demo demo $1.50 $3.00" in (await ada.get("/docs/pricing")).words


# --- the API ----------------------------------------------------------------------------------


async def test_the_reference_has_every_operation_parameter_and_schema(site: WebSite) -> None:
    seen = await site.visitor().get("/docs/api")
    text = html.unescape(seen.text)
    described = document("")
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            block = operation_of(text, method, path)
            assert operation["summary"] in block
            for one in operation["parameters"]:
                assert f"<code>{one['name']}</code>" in block
    for name, schema in described["components"]["schemas"].items():
        block = text.split(f'id="schema-{name}"')[1].split("</details>")[0]
        for field in schema.get("properties", {}):
            assert f"<code>{field}" in block


def operation_of(text: str, method: str, path: str) -> str:
    head = (
        rf'<summary><span class="badge \w+">{method.upper()}</span> <code>{re.escape(path)}</code>'
    )
    (block,) = re.findall(rf"{head}(.*?)</details>", text, re.DOTALL)
    return str(block)


async def test_an_example_of_a_body_is_one_that_its_verb_reads(site: WebSite) -> None:
    text = html.unescape((await site.visitor().get("/docs/api")).text)
    tried = 0
    for route in ROUTES:
        block = operation_of(text, route.method, route.shown_path)
        example = re.search(r'<code class="language-json">(.*?)</code>', block, re.DOTALL)
        if example is None:
            continue
        body = msgspec.json.decode(example[1])
        takes = VERBS[route.verb].takes
        names = {field.encode_name for field in msgspec.structs.fields(takes)}
        assert body.keys() <= names, route
        tried += 1
    assert tried > 10

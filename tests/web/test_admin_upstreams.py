"""Admin's pages of providers and of the catalog: what they say, and that their forms do it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from harness import Answer
from web_client import Visitor, WebSite, web_site

from gateway.web.admin_models import ROWS
from gateway.web.admin_providers import METER_WIDTH, meter

PROVIDERS = "/dashboard/admin/providers"
MODELS = "/dashboard/admin/models"
SECRET = "sk-live-abcdefghijklmnopqrstuvwxyz"

MORE = """
[providers.openai]
format = "openai"
base_url = "https://api.openai.com/v1"
keys = ["env:NO_SUCH_VARIABLE_IS_SET"]
daily_alert_usd = 1
daily_stop_usd = 2

[models.fast]
targets = ["openai/gpt-4o-mini", "demo/demo"]

[model_map]
"gpt-3.5*" = "fast"
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    """A gateway whose configuration has one more provider, without a key."""
    async with web_site(tmp_path, MORE) as made:
        yield made


@pytest.fixture
async def root(site: WebSite) -> Visitor:
    return await site.user("root", admin=True)


async def call(site: WebSite, model: str = "basic") -> Answer:
    key = await site.running.key("caller")
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    return await site.running.call("/v1/chat/completions", msgspec.json.encode(body), key=key)


async def test_providers_are_listed_with_their_state(site: WebSite, root: Visitor) -> None:
    words = (await root.get(PROVIDERS)).words
    assert re.search(r"demo builtin:demo up all 0 of 0 \$0\.00 none set", words), words
    assert re.search(r"openai https://api\.openai\.com/v1 inactive openai 0 of 1 \$0\.00", words)


async def test_a_paused_provider_answers_429_until_it_is_resumed(
    site: WebSite, root: Visitor
) -> None:
    await root.get(f"{PROVIDERS}/demo")
    paused = await root.send(f"{PROVIDERS}/demo/pause")
    assert "Paused by an admin" in paused.words
    answer = await call(site)
    assert (answer.status, answer.json()["error"]["code"]) == (429, "provider_paused")
    everyone = await root.get("/dashboard/admin")
    assert "demo is paused" in everyone.words
    resumed = await root.send(f"{PROVIDERS}/demo/resume")
    assert "Paused by an admin" not in resumed.words
    assert (await call(site)).status == 200


async def test_an_added_key_is_never_shown_again_and_can_be_disabled_and_removed(
    site: WebSite, root: Visitor
) -> None:
    await root.get(f"{PROVIDERS}/openai")
    seen = await root.send(f"{PROVIDERS}/openai/keys", {"key": SECRET})
    assert "sk-l…wxyz" in seen.words
    key_id = re.search(r'name="id" value="(pk_\w+)"', seen.text)
    assert key_id
    again = await root.send(f"{PROVIDERS}/openai/keys", {"key": SECRET})
    assert again.status == 400
    assert "has this key already" in again.words
    disabled = await root.send(
        f"{PROVIDERS}/openai/keys/change", {"id": key_id[1], "do": "disable"}
    )
    assert "disabled" in disabled.words
    assert "inactive" in disabled.words
    enabled = await root.send(f"{PROVIDERS}/openai/keys/change", {"id": key_id[1], "do": "enable"})
    assert "usable" in enabled.words
    removed = await root.send(f"{PROVIDERS}/openai/keys/change", {"id": key_id[1], "do": "remove"})
    assert "sk-l…wxyz" not in removed.words
    assert not site.running.gateway.settings.list_keys("openai")
    for page in (seen, again, disabled, enabled, removed):
        assert SECRET not in page.text


async def test_a_key_that_is_none_is_refused_and_not_echoed(root: Visitor) -> None:
    await root.get(f"{PROVIDERS}/openai")
    for wrong in ("short", "env:OPENAI_API_KEY", "with a space in it", ""):
        seen = await root.send(f"{PROVIDERS}/openai/keys", {"key": wrong})
        assert seen.status == 400
        assert not wrong or f'value="{wrong}"' not in seen.text


async def test_another_providers_key_cannot_be_changed_on_this_ones_page(
    site: WebSite, root: Visitor
) -> None:
    added = await site.running.gateway.settings.add_key("openai", SECRET)
    await root.get(f"{PROVIDERS}/demo")
    seen = await root.send(f"{PROVIDERS}/demo/keys/change", {"id": added.id, "do": "remove"})
    assert seen.status == 400
    assert site.running.gateway.settings.list_keys("openai")


async def test_a_provider_is_added_at_a_public_address_only(site: WebSite, root: Visitor) -> None:
    await root.get(PROVIDERS)
    fields = {"name": "mine", "format": "openai", "base_url": "https://8.8.8.8/v1"}
    for wrong, told in (
        ({"base_url": "http://8.8.8.8/v1"}, "https"), ({"base_url": "https://127.0.0.1/v1"}, ""),
        ({"base_url": "https://10.0.0.1/v1"}, ""), ({"name": "My Provider"}, ""),
        ({"name": "demo"}, "already"), ({"format": "all"}, ""), ({"name": ""}, "required"),
    ):  # fmt: skip
        seen = await root.send(PROVIDERS, fields | wrong)
        assert seen.status == 400, wrong
        assert told in seen.words
    added = await root.send(PROVIDERS, fields | {"catalog": "openai"})
    assert added.path == f"{PROVIDERS}/mine", added
    assert "https://8.8.8.8/v1" in added.words
    moved = await root.send(
        f"{PROVIDERS}/mine/address", fields | {"base_url": "https://127.0.0.1/v1"}
    )
    assert moved.status == 400
    assert 'value="https://127.0.0.1/v1"' in moved.text
    removed = await root.send(f"{PROVIDERS}/mine/remove")
    assert removed.path == PROVIDERS
    assert (await root.get(f"{PROVIDERS}/mine")).status == 404
    assert "mine" not in site.running.gateway.services.providers


async def test_a_provider_that_there_is_not_is_not_found(root: Visitor) -> None:
    await root.get(PROVIDERS)
    for form in ("pause", "resume", "keys", "remove", "address"):
        fields = {"key": SECRET} if form == "keys" else {}
        seen = await root.send(f"{PROVIDERS}/nowhere/{form}", fields)
        assert seen.status == 404, form


def money(nano_usd: int | None) -> dict[str, object] | None:
    return None if nano_usd is None else {"nano_usd": nano_usd, "amount": ""}


@pytest.mark.parametrize(
    ("spent", "alert", "stop", "drawn"),
    [
        (0, 50, 100, (0, METER_WIDTH // 2, METER_WIDTH - 2, "calm")),
        (1, 10**6, 10**9, (1, 1, METER_WIDTH - 2, "calm")),
        (50, 50, 100, (120, 120, METER_WIDTH - 2, "alert")),
        (100, 50, 100, (METER_WIDTH, 120, METER_WIDTH - 2, "stop")),
        (400, 50, 100, (METER_WIDTH, 30, 60, "stop")),
        (5, None, 10, (120, None, METER_WIDTH - 2, "calm")),
        (0, 0, None, (0, 0, None, "alert")),
    ],
)
def test_the_bar_of_a_day_ends_where_its_spending_does(
    spent: int, alert: int | None, stop: int | None, drawn: tuple[object, ...]
) -> None:
    made = meter({"spent": money(spent), "alert": money(alert), "stop": money(stop)})
    assert made is not None
    assert made[:4] == drawn


def test_without_thresholds_there_is_no_bar() -> None:
    assert meter({"spent": money(5), "alert": None, "stop": None}) is None
    assert meter(None) is None


# --- models ---------------------------------------------------------------------------------------


def listed(text: str) -> list[str]:
    return re.findall(
        r'<td class="name"><a href="/dashboard/admin/models/one\?[^"]+">([^<]+)</a>', text
    )


async def test_models_are_searched_on_the_server_and_paged(root: Visitor) -> None:
    first = await root.get(f"{MODELS}?provider=openai")
    names = listed(first.text)
    further = re.search(r'href="([^"]+above=\d+)"', first.text)
    assert further, first
    rest = listed((await root.get(further[1].replace("&amp;", "&"))).text)
    assert len(names) == ROWS
    assert names[-1] < rest[0]
    assert listed((await root.get(f"{MODELS}?q=OPENAI/gpt-4O-mini&provider=openai")).text)[0] == (
        "gpt-4o-mini"
    )
    assert "No model goes by that" in (await root.get(f"{MODELS}?q=no-such-model")).words


async def test_a_price_of_our_own_is_charged_until_the_catalogs_is_taken_back(
    site: WebSite, root: Visitor
) -> None:
    one = f"{MODELS}/one?provider=demo&model=demo"
    assert (await root.get(one)).status == 200
    fields = {
        "provider": "demo", "model": "demo", "enabled": "yes", "multiplier": "2",
        "price_input": "1000", "price_output": "$2,000.50", "context_length": "8,000",
    }  # fmt: skip
    seen = await root.send(f"{MODELS}/one", fields)
    assert "Saved" in seen.words
    assert "$1,000.00 in, $2,000.50 out, per million tokens, × 2" in seen.words
    await call(site)
    receipt = (await root.get("/dashboard/admin")).words
    caller = site.running.gateway.accounts.user_named("caller")
    charged = 10**12 - site.running.gateway.accounts.funds(caller.id).balance
    # Twice 20 tokens at 2,000.50 dollars for a million is more than the catalog's price for all.
    assert charged > 2 * 20 * 2_000_500
    assert f"${charged / 10**9:g}" in receipt
    assert listed((await root.get(f"{MODELS}?changed=yes")).text) == ["demo"]
    back = await root.send(f"{MODELS}/unset", {"provider": "demo", "model": "demo"})
    assert "as the catalog says again" in back.words
    assert not site.running.gateway.settings.models


async def test_a_disabled_model_is_no_target_for_keys_issued_here(
    site: WebSite, root: Visitor
) -> None:
    await root.get(f"{MODELS}/one?provider=demo&model=demo")
    await root.send(f"{MODELS}/one", {"provider": "demo", "model": "demo", "multiplier": "1"})
    assert (await call(site)).status >= 400


async def test_what_cannot_be_set_is_refused_with_what_was_typed(
    site: WebSite, root: Visitor
) -> None:
    await root.get(f"{MODELS}/one?provider=demo&model=demo")
    fields = {"provider": "demo", "model": "demo", "enabled": "yes"}
    for name, value in (
        ("multiplier", "twice"), ("price_output", "3"), ("price_input", "free"),
        ("context_length", "0"), ("max_output_tokens", "1e3"),
    ):  # fmt: skip
        seen = await root.send(f"{MODELS}/one", fields | {name: value})
        assert seen.status == 400, (name, value)
        assert f'value="{value}"' in seen.text
    assert not site.running.gateway.settings.models


async def test_a_name_is_told_with_its_targets_in_order(root: Visitor) -> None:
    seen = await root.get(f"{MODELS}?name=fast")
    assert "fast is an alias of config.toml, tried by failover" in seen.words
    targets = re.findall(r"<li><a [^>]+>([^<]+)</a>", seen.text.partition("<ol>")[2])
    assert targets == ["openai/gpt-4o-mini", "demo/demo"]
    assert "Other names like Are gpt-3.5* fast" in seen.words
    assert "Nothing goes by the name nosuch" in (await root.get(f"{MODELS}?name=nosuch")).words


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", '"><script>', "a&b=c#d?e%20/.."])
async def test_a_model_of_any_name_is_set_and_shown_as_text(
    site: WebSite, root: Visitor, name: str
) -> None:
    name = name.replace(" ", "_")
    await root.get(f"{MODELS}/one?provider=demo&model=demo")
    fields = {"provider": "demo", "model": name, "enabled": "yes", "price_input": "1"}
    seen = await root.send(f"{MODELS}/one", fields)
    assert "Saved" in seen.words
    assert parse_qs(urlsplit(seen.path).query) == {"provider": ["demo"], "model": [name]}
    assert ("demo", name) in site.running.gateway.settings.models
    found = await root.get(f"{MODELS}?changed=yes&q={quote(name)}")
    for page in (seen, found):
        assert name in page.words
        assert "<img_src" not in page.text
        assert '"><script>' not in page.text


async def test_what_a_provider_does_not_have_is_not_found(root: Visitor) -> None:
    assert (await root.get(f"{MODELS}/one?provider=demo&model=no-such-model")).status == 404
    assert (await root.get(f"{MODELS}/one?provider=nowhere&model=demo")).status == 404

"""`health.Health`: which targets are tried, in which order, with which key; what stops a call."""

import logging
import timeit
from typing import Any

import pytest

from gateway import config as cfg
from gateway.errors import GatewayError
from gateway.ledger.catalog import Catalog
from gateway.ledger.records import ProviderSettings
from gateway.proxy import providers as runtime
from gateway.proxy.breaker import Probe
from gateway.proxy.health import CALM_AGAIN_SECONDS, Health
from gateway.proxy.providers import Provider
from gateway.proxy.routing import Route, Router, Target

CATALOG = Catalog.load()
WALL = 1_795_000_000.0
A, B, C = "a-key-of-some-length", "b-key-of-some-length", "c-key-of-some-length"

TEXT = f"""
[upstream]
breaker_failures = 3
breaker_seconds = 5

[providers.one]
format = "openai"
base_url = "http://one.test"
keys = ["{A}", "{B}"]
catalog = "openai"

[providers.two]
format = "openai"
base_url = "http://two.test"
keys = ["{C}"]
catalog = "openai"

[providers.local]
format = "openai"
base_url = "http://local.test"
catalog = "openai"

[models.all]
targets = ["one/gpt-4o", "two/gpt-4o", "local/gpt-4o"]

[models.pair]
targets = ["one/gpt-4o", "two/gpt-4o"]

[models.single]
targets = ["one/gpt-4o"]

[models.shared]
targets = ["one/gpt-4o", "two/gpt-4o"]
strategy = "weighted"
weights = [3, 1]

[models.quick]
targets = ["one/gpt-4o-mini", "two/gpt-4o-mini", "local/gpt-4o-mini"]
strategy = "latency"
"""


class Site:
    """A `Health` over the providers above; `now` moves when told to."""

    def __init__(self, text: str = TEXT) -> None:
        self.health = Health(wall=lambda: WALL)
        self.now = 1000.0
        self.configure(text)

    def configure(self, text: str = TEXT, **settings: ProviderSettings) -> None:
        self.config = cfg.parse(text)
        self.providers: dict[str, Provider] = runtime.build(self.config, None, settings)
        self.health.configure(self.config, self.providers, settings)
        self.router = Router(self.config, self.providers, CATALOG)

    def route(self, model: str) -> Route:
        return self.router.route(model, "openai", None)

    def target(self, provider: str, model: str = "gpt-4o") -> Target:
        one = self.providers[provider]
        return Target(one, one.bases["openai"], model)

    def order(self, model: str, *, own: bool = False) -> list[str]:
        route = self.router.own(model, "openai", None) if own else self.route(model)
        return [one.provider.name for one in self.health.order(route, self.now, own=own)]

    def refusal(self, model: str) -> GatewayError:
        with pytest.raises(GatewayError) as refused:
            self.order(model)
        assert refused.value.stage == "routing"
        return refused.value

    def key(self, provider: str, model: str = "gpt-4o") -> str | None:
        key = self.health.key(self.target(provider, model), self.now)
        return None if key is None else key.text.decode()

    def refuse(
        self, provider: str, status: int, *, wait: bytes = b"20", model: str = "gpt-4o"
    ) -> str:
        """Refuse the provider's next key; which one that was."""
        target = self.target(provider, model)
        key = self.health.key(target, self.now)
        assert key is not None
        lines = [b"HTTP/1.1 %d Refused" % status, b"retry-after: " + wait]
        self.health.key_refused(target, key, status, lines, self.now)
        return key.text.decode()

    def fail(self, provider: str, times: int = 3) -> None:
        for _ in range(times):
            self.health.failed(self.target(provider), self.now)

    def settle_down(self) -> None:
        """Look again whether all is calm."""
        self.now += CALM_AGAIN_SECONDS
        self.order("all")


# --- calm -------------------------------------------------------------------------------------


def test_while_all_is_calm_a_route_is_taken_as_it_is() -> None:
    site = Site()
    assert site.order("all") == ["one", "two", "local"]
    assert site.health.calm
    route = site.route("all")
    assert site.health.order(route, site.now) is route.targets


def test_a_calm_order_costs_next_to_nothing() -> None:
    site = Site()
    site.order("all")
    route, order, now = site.route("all"), site.health.order, site.now
    best_s = min(timeit.repeat(lambda: order(route, now), number=10_000, repeat=7)) / 10_000
    assert best_s < 2e-6  # 0.1 µs on a quiet machine


@pytest.mark.parametrize(
    "trouble",
    [
        lambda site: site.fail("two", 1),
        lambda site: site.health.pause("two", "admin"),
        lambda site: site.refuse("one", 401),
        lambda site: site.refuse("one", 403),
        lambda site: site.refuse("one", 429),
    ],
)
def test_any_trouble_ends_the_calm_and_its_end_restores_it(trouble: Any) -> None:
    site = Site()
    site.settle_down()
    assert site.health.calm
    trouble(site)
    assert not site.health.calm
    site.settle_down()
    assert not site.health.calm
    site.health.succeeded(site.target("two"), 0.1, site.now)
    site.health.resume("two")
    site.health.reinstate()
    site.now += 20.0
    site.settle_down()
    assert site.health.calm


# --- pauses -----------------------------------------------------------------------------------


def test_a_paused_provider_is_passed_over_until_it_is_resumed() -> None:
    site = Site()
    site.health.pause("one", "daily_stop")
    assert site.order("all") == ["two", "local"]
    assert site.health.paused_by("one") == "daily_stop"
    site.health.resume("one")
    assert site.order("all") == ["one", "two", "local"]
    assert site.health.paused_by("one") is None


def test_a_call_that_only_a_paused_provider_could_serve_is_told_so() -> None:
    site = Site()
    site.health.pause("one", "admin")
    error = site.refusal("single")
    assert (error.code, error.status) == ("provider_paused", 429)
    assert error.message == "Provider one is paused"
    assert error.retry_after_s


def test_a_pause_stops_callers_with_their_own_key_too() -> None:
    site = Site(TEXT + '\n[byok]\nopenai = "one"\n')
    assert site.order("gpt-4o", own=True) == ["one"]
    site.health.pause("one", "admin")
    with pytest.raises(GatewayError) as refused:
        site.order("gpt-4o", own=True)
    assert refused.value.code == "provider_paused"


def test_callers_with_their_own_key_are_stopped_by_nothing_else() -> None:
    site = Site(TEXT + '\n[byok]\nopenai = "one"\n')
    site.fail("one")
    for _ in range(2):
        site.refuse("one", 401)
    assert site.order("gpt-4o", own=True) == ["one"]


def test_the_settings_pause_and_resume_at_a_configuration() -> None:
    site = Site()
    site.configure(one=ProviderSettings("one", paused_ms=1, paused_by="daily_stop"))
    assert site.order("all") == ["two", "local"]
    assert site.health.paused_by("one") == "daily_stop"
    site.configure()
    assert site.order("all") == ["one", "two", "local"]


# --- keys -------------------------------------------------------------------------------------


def test_keys_take_turns_and_a_keyless_provider_wants_none() -> None:
    site = Site()
    assert [site.key("one") for _ in range(3)] == [A, B, A]
    assert site.key("local") is None


def test_a_key_that_got_401_is_used_no_more() -> None:
    site = Site()
    gone = site.refuse("one", 401)
    assert {site.key("one") for _ in range(3)} == {A, B} - {gone}
    assert site.order("pair") == ["one", "two"]
    site.refuse("one", 401)
    assert site.order("pair") == ["two"]
    site.now += 1e6
    assert site.order("pair") == ["two"]


def test_without_a_key_that_is_not_set_aside_there_is_no_active_key() -> None:
    site = Site()
    for _ in range(2):
        site.refuse("one", 401)
    error = site.refusal("single")
    assert (error.code, error.status) == ("no_active_api_keys", 503)
    assert error.message == "No active API keys for provider one"


def test_a_key_that_got_403_still_serves_other_models() -> None:
    site = Site()
    for _ in range(2):
        site.refuse("one", 403)
    assert site.order("pair") == ["two"]
    assert site.refusal("single").code == "no_active_api_keys"
    assert site.order("one/gpt-4o-mini") == ["one"]
    assert site.key("one", "gpt-4o-mini") in (A, B)


def test_resuming_a_provider_gives_its_refused_keys_another_chance() -> None:
    site = Site()
    site.refuse("two", 401)
    for _ in range(2):
        site.refuse("one", 401)
    site.health.resume("one")
    assert site.order("pair") == ["one"]
    site.health.reinstate()
    assert site.order("pair") == ["one", "two"]


def test_a_provider_whose_keys_all_rest_is_passed_over_while_there_are_others() -> None:
    site = Site()
    site.refuse("one", 429)
    assert site.order("pair") == ["one", "two"]
    site.refuse("one", 429)
    assert site.order("pair") == ["two"]
    site.now += 20.0
    assert site.order("pair") == ["one", "two"]


def test_when_the_keys_of_all_rest_the_caller_is_told_until_when() -> None:
    site = Site()
    site.refuse("one", 429, wait=b"20")
    site.refuse("one", 429, wait=b"30")
    site.refuse("two", 429, wait=b"8")
    site.now += 3.0
    error = site.refusal("pair")
    assert (error.code, error.status) == ("upstream_error", 503)
    assert error.message == "All upstream providers failed: two's keys rest after its 429"
    assert error.retry_after_s == 5.0
    assert site.refusal("single").retry_after_s == 17.0


def test_a_rest_that_will_end_is_told_rather_than_keys_that_are_gone() -> None:
    site = Site()
    site.refuse("two", 401)
    for _ in range(2):
        site.refuse("one", 429)
    assert site.refusal("pair").code == "upstream_error"


def test_retry_after_zero_lets_a_key_go_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = Site()
    site.refuse("two", 429, wait=b"0")
    assert not caplog.records
    assert site.order("pair") == ["one", "two"]
    assert site.key("two") == C


def test_a_key_that_came_to_rest_since_the_order_is_not_used_all_the_same() -> None:
    site = Site()
    targets = site.health.order(site.route("single"), site.now)
    for _ in range(2):
        site.refuse("one", 429)
    with pytest.raises(GatewayError) as refused:
        site.health.key(targets[0], site.now)
    assert refused.value.retry_after_s == 20.0


def test_another_key_is_worth_a_try_until_each_was_tried() -> None:
    site = Site()
    target = site.target("one")
    site.refuse("one", 429)
    assert site.health.another_key(target, 1, site.now)
    site.refuse("one", 429)
    assert not site.health.another_key(target, 1, site.now)
    site.now += 20.0
    assert site.health.another_key(target, 1, site.now)
    assert not site.health.another_key(target, 2, site.now)
    assert not site.health.another_key(site.target("local"), 0, site.now)


# --- breakers ---------------------------------------------------------------------------------


def test_a_target_that_keeps_failing_is_passed_over() -> None:
    site = Site()
    site.fail("one", 2)
    assert site.order("pair") == ["one", "two"]
    site.fail("one", 1)
    assert site.order("pair") == ["two"]
    assert site.order("one/gpt-4o-mini") == ["one"]


def test_an_open_breaker_never_refuses_by_itself() -> None:
    site = Site()
    site.fail("one")
    assert site.order("single") == ["one"]
    site.fail("two")
    assert site.order("pair") == ["one", "two"]
    assert site.order("all") == ["local"]


def test_one_call_probes_while_the_others_pass_the_target_over() -> None:
    site = Site()
    site.fail("one")
    site.now += 5.0
    assert site.order("pair") == ["one", "two"]
    probe = site.health.begin(site.target("one"), site.now)
    assert probe is not None
    assert [site.order("pair") for _ in range(5)] == [["two"]] * 5
    assert site.health.begin(site.target("one"), site.now) is None
    site.health.attempted(site.target("one"), "succeeded", 200, 0.1, site.now, probe)
    assert site.order("pair") == ["one", "two"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("client_disconnect", 200), ("gateway", None), ("upstream_status", 429),
     ("upstream_status", 401), ("upstream_status", 403)],
)  # fmt: skip
def test_a_probe_that_ends_without_a_verdict_lets_another_go(
    outcome: str, status: int | None
) -> None:
    site, probe = probing()
    site.health.attempted(site.target("one"), outcome, status, None, site.now, probe)
    assert site.order("pair") == ["one", "two"]
    assert site.health.begin(site.target("one"), site.now) is not None


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("upstream_connect", None), ("upstream_timeout", None), ("upstream_stream", 200),
     ("upstream_status", 500), ("upstream_status", 529), ("upstream_status", 408)],
)  # fmt: skip
def test_a_failed_probe_opens_it_for_twice_as_long(outcome: str, status: int | None) -> None:
    site, probe = probing()
    site.health.attempted(site.target("one"), outcome, status, None, site.now, probe)
    site.now += 9.9
    assert site.order("pair") == ["two"]
    site.now += 0.1
    assert site.order("pair") == ["one", "two"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("succeeded", 200), ("upstream_status", 400), ("upstream_status", 404),
     ("upstream_status", 413), ("upstream_status", 422)],
)  # fmt: skip
def test_a_probe_that_is_answered_closes_it_be_the_answer_a_callers_error(
    outcome: str, status: int
) -> None:
    site, probe = probing()
    site.health.attempted(site.target("one"), outcome, status, None, site.now, probe)
    site.fail("one", 2)
    assert site.order("pair") == ["one", "two"]


def probing() -> tuple[Site, Probe]:
    site = Site()
    site.fail("one")
    site.now += 5.0
    probe = site.health.begin(site.target("one"), site.now)
    assert probe is not None
    return site, probe


def test_failures_of_what_was_refused_for_its_key_do_not_open_a_breaker() -> None:
    site = Site()
    for _ in range(10):
        site.health.attempted(site.target("one"), "upstream_status", 429, None, site.now)
        site.health.attempted(site.target("one"), "client_disconnect", 200, None, site.now)
    assert site.order("pair") == ["one", "two"]


def test_a_further_target_is_ready_unless_something_has_happened_to_it() -> None:
    site = Site()
    two = site.target("two")
    assert site.health.ready(two, site.now)
    site.fail("one")
    assert site.health.ready(two, site.now)
    site.refuse("two", 429)
    assert not site.health.ready(two, site.now)
    site.now += 20.0
    assert site.health.ready(two, site.now)
    site.fail("two")
    assert not site.health.ready(two, site.now)
    site.now += 5.0
    assert site.health.ready(two, site.now)
    site.health.pause("two", "admin")
    assert not site.health.ready(two, site.now)
    assert site.health.ready(site.target("local"), site.now)


def test_a_target_without_keys_stands_no_chance_against_one_that_is_open() -> None:
    site = Site()
    for _ in range(2):
        site.refuse("one", 401)
    site.fail("two")
    assert site.order("pair") == ["two"]


# --- strategies -------------------------------------------------------------------------------


def test_weights_share_the_first_place_and_the_others_stand_behind_it() -> None:
    site = Site()
    orders = [site.order("shared") for _ in range(8)]
    assert [order[0] for order in orders].count("one") == 6
    assert all(sorted(order) == ["one", "two"] for order in orders)
    assert orders[0][0] == "one"
    assert ["two", "one"] in orders[:4]


def test_weights_hold_among_those_that_can_be_tried() -> None:
    site = Site()
    site.health.pause("one", "admin")
    assert [site.order("shared") for _ in range(4)] == [["two"]] * 4
    site.health.resume("one")
    firsts = [site.order("shared")[0] for _ in range(8)]
    assert firsts.count("one") == 6


def test_weights_go_on_where_they_were_after_a_reload() -> None:
    site = Site()
    firsts = []
    for _ in range(8):
        firsts.append(site.order("shared")[0])
        site.configure()
    assert firsts.count("one") == 6


def test_the_quickest_goes_first_where_the_route_says_so() -> None:
    site = Site()
    for name, seconds in (("one", 0.5), ("two", 0.1), ("local", 0.3)):
        target = site.target(name, "gpt-4o-mini")
        site.health.attempted(target, "succeeded", 200, seconds, site.now)
    assert site.order("quick") == ["two", "local", "one"]
    site.health.pause("two", "admin")
    assert site.order("quick") == ["local", "one"]
    assert site.health.view(site.now)[0].first_byte_s == {"gpt-4o-mini": 0.5}


def test_nothing_is_measured_where_no_route_asks_for_it() -> None:
    site = Site(TEXT.replace('strategy = "latency"', ""))
    site.health.succeeded(site.target("one"), 0.5, site.now)
    assert site.health.view(site.now)[0].first_byte_s == {}


# --- reloads ----------------------------------------------------------------------------------


def test_a_reload_keeps_resting_and_refused_keys_and_open_breakers() -> None:
    site = Site()
    resting, refused = site.refuse("one", 429), site.refuse("one", 401)
    site.fail("two")
    site.configure(TEXT.replace(f'"{A}", "{B}"', f'"{B}", "{A}", "new-key"'))
    assert {site.key("one") for _ in range(4)} == {"new-key"}
    assert site.order("pair") == ["one"]
    site.now += 20.0
    assert {site.key("one") for _ in range(4)} == {"new-key", resting}
    site.health.reinstate()
    assert {site.key("one") for _ in range(4)} == {"new-key", resting, refused}


def test_a_request_that_began_before_a_reload_uses_and_reports_the_keys_it_began_with() -> None:
    site = Site()
    before = site.target("one")
    site.configure(TEXT.replace("http://one.test", "http://elsewhere.test").replace(A, "new-key"))
    keys = {site.health.key(before, site.now) for _ in range(4)}
    assert {key.text.decode() for key in keys if key is not None} == {A, B}
    key = site.health.key(before, site.now)
    assert key is not None
    site.health.key_refused(before, key, 401, [], site.now)
    assert {site.key("one") for _ in range(4)} == {"new-key", B}


def test_a_provider_at_another_address_starts_afresh() -> None:
    site = Site()
    for _ in range(2):
        site.refuse("one", 401)
    site.fail("one")
    site.configure(TEXT.replace("http://one.test", "http://elsewhere.test"))
    assert site.order("pair") == ["one", "two"]
    site.configure()
    assert site.order("pair") == ["one", "two"]


def test_other_timeouts_are_not_another_address() -> None:
    site = Site()
    for _ in range(2):
        site.refuse("one", 401)
    site.configure(TEXT.replace("breaker_seconds = 5", "breaker_seconds = 5\nidle_seconds = 7"))
    assert site.order("pair") == ["two"]


def test_a_reload_changes_when_breakers_open() -> None:
    site = Site()
    site.configure(TEXT.replace("breaker_failures = 3", "breaker_failures = 1"))
    site.fail("one", 1)
    assert site.order("pair") == ["two"]


# --- views and logs ---------------------------------------------------------------------------


def test_a_view_shows_every_provider() -> None:
    site = Site()
    site.refuse("one", 429)
    site.refuse("two", 401)
    site.fail("local")
    site.health.pause("local", "admin")
    one, two, local = site.health.view(site.now + 5.0)
    assert (one.name, one.up, one.active, one.paused_by) == ("one", True, True, None)
    assert [key.state for key in one.keys] == ["resting", "usable"]
    assert one.keys[0].rests_s == 15.0
    assert (two.up, two.active, two.keys[0].state) == (False, True, "set_aside")
    assert (local.up, local.keyless, local.paused_by) == (False, True, "admin")
    assert [(seen.model, seen.state) for seen in local.breakers] == [("gpt-4o", "due")]


def test_what_happens_is_logged_once_and_without_a_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = Site()
    target = site.target("one")
    key = site.health.key(target, site.now)
    assert key is not None
    for _ in range(3):
        for status in (429, 403, 401):
            site.health.key_refused(target, key, status, [b"retry-after: 9"], site.now)
        site.health.failed(target, site.now)
        site.health.pause("one", "daily_stop")
    for _ in range(3):
        site.health.failed(target, site.now)
    site.health.succeeded(target, 0.1, site.now)
    site.health.succeeded(target, 0.1, site.now)
    site.health.resume("one")
    site.health.resume("one")
    told = [record.getMessage() for record in caplog.records]
    hint = key.hint
    assert told == [
        f"one: key {hint} rests for 9 s after a 429",
        f"one: key {hint} was refused for gpt-4o and is set aside for it",
        f"one: key {hint} was refused and is set aside",
        "provider one is paused (daily_stop)",
        "one/gpt-4o keeps failing: passed over for 5 s while there are others",
        "one/gpt-4o answers again",
        "provider one is resumed",
    ]
    assert not [line for line in told if A in line]

"""A reload takes all of a new configuration or nothing, and no request notices."""

import asyncio
from pathlib import Path

import pytest
from harness import Upstream, answering, config_text, reply, scenario, serving

from gateway import config as cfg
from gateway.app import Gateway
from gateway.errors import ConfigError

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"max_tokens":5}'
TARGET = "/v1/chat/completions"
ANSWER = (
    b'{"id":"c","object":"chat.completion","model":"gpt-4o","choices":[],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}'
)


@scenario
async def test_a_new_provider_a_new_alias_and_new_limits_hold_after_a_reload(
    tmp_path: Path,
) -> None:
    async with Upstream(answering(reply(ANSWER))).running() as upstream:
        text = config_text(tmp_path / "gateway.db", upstream.url)
        path = tmp_path / "config.toml"
        path.write_text(text)
        async with serving(text, path=path) as running:
            key = await running.key()
            asked = CHAT.replace(b"gpt-4o", b"mine")
            assert (await running.call(TARGET, asked, key=key)).status == 400
            path.write_text(
                text
                + '[models.mine]\ntargets = ["second/gpt-4o"]\n'
                + f'[providers.second]\nformat = "openai"\nbase_url = "{upstream.url}/second"\n'
                + 'keys = ["key-of-second"]\ncatalog = "openai"\n[limits]\nrpm = 3\n'
            )
            report = await running.gateway.control.reload()
            assert set(report.changed) == {"providers.second", "models.mine", "limits.rpm"}
            assert report.needs_restart == []
            answer = await running.call(TARGET, asked, key=key)
            assert answer.status == 200
            assert upstream.calls[-1].target == "/second/chat/completions"
            assert upstream.calls[-1].get(b"authorization") == b"Bearer key-of-second"
            assert answer.get(b"x-ratelimit-limit-requests") == b"3"


@scenario
async def test_a_bad_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    async with Upstream(answering(reply(ANSWER))).running() as upstream:
        text = config_text(tmp_path / "gateway.db", upstream.url)
        path = tmp_path / "config.toml"
        path.write_text(text)
        async with serving(text, path=path) as running:
            services = running.gateway.services
            before = services.config, services.router, services.providers, services.generation
            for bad, why in (
                ("[limits]\nrpm = 0\n", "limits.rpm"),
                ("[nonsense]\n", "nonsense: unknown key"),
                ('[models.m]\ntargets = ["nobody/m"]\n', "models.m.targets"),
                ("= 5", "not TOML"),
            ):
                path.write_text(text + bad)
                with pytest.raises(ConfigError, match=why):
                    await running.gateway.control.reload()
            path.unlink()
            with pytest.raises(ConfigError, match="no such file"):
                await running.gateway.control.reload()
            after = services.config, services.router, services.providers, services.generation
            assert after == before
            assert (await running.call(TARGET, CHAT, key=await running.key())).status == 200


@scenario
async def test_what_needs_a_restart_stays_and_is_named(tmp_path: Path) -> None:
    async with Upstream(answering(reply(ANSWER))).running() as upstream:
        text = config_text(tmp_path / "gateway.db", upstream.url)
        path = tmp_path / "config.toml"
        path.write_text(text)
        async with serving(text, path=path) as running:
            path.write_text(text.replace("port = 0", "port = 9\nmax_body_bytes = 2048"))
            report = await running.gateway.control.reload()
            assert report.needs_restart == ["server.port"]
            assert report.changed == ["server.max_body_bytes"]
            assert running.gateway.services.config.server.port == 0
            large = CHAT.replace(b"hello", b"h" * 4096)
            key = await running.key()
            assert (await running.call(TARGET, large, key=key)).status == 413


@scenario
async def test_a_request_in_flight_ends_with_what_it_began_with(tmp_path: Path) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def script(call: object) -> None:
        arrived.set()
        await go.wait()
        await answering(reply(ANSWER))(call)  # type: ignore[arg-type]

    async with Upstream(script).running() as upstream:
        text = config_text(tmp_path / "gateway.db", upstream.url)
        path = tmp_path / "config.toml"
        path.write_text(text)
        async with serving(text, path=path) as running:
            key = await running.key()
            calling = asyncio.ensure_future(running.call(TARGET, CHAT, key=key))
            await arrived.wait()
            i = text.index("[providers.openai]")
            without = text[:i] + text[text.index("[providers.anthropic]") :]
            path.write_text(without)
            await running.gateway.control.reload()
            go.set()
            answer = await calling
            assert (answer.status, answer.body) == (200, ANSWER)
            receipt = await running.receipt(answer, key)
            assert receipt["route"]["provider"] == "openai"
            assert receipt["cost"]["nano_usd"] > 0
            assert (await running.call(TARGET, CHAT, key=key)).status == 400


@scenario
async def test_a_gateway_without_a_file_says_that_it_cannot_reload(tmp_path: Path) -> None:
    gateway = Gateway(
        cfg.parse(config_text(tmp_path / "gateway.db", "http://127.0.0.1:9")),
        on_fatal=lambda exc: None,
    )
    await gateway.start()
    try:
        with pytest.raises(ConfigError, match="not started from a file"):
            await gateway.control.reload()
    finally:
        await gateway.stop(0.0)

"""Calls whose API takes no limit on output: a cap refuses them or lets them pass, and sets none."""

from pathlib import Path

import pytest
from harness import answering, reply, scenario
from test_claims_on_the_wire import capped

COMPACT, CREATE = "/v1/responses/compact", "/v1/responses"
BODY = b'{"model":"gpt-4o","input":"Hello",  "instructions":"Be brief."}'
MODEL = "gpt-4o"


def room(above: Path, name: str) -> Path:
    """A directory for one gateway of several."""
    made = above / name
    made.mkdir()
    return made


async def held(directory: Path, target: str, body: bytes) -> int:
    """What a call holds of a balance where no cap is set."""
    async with capped(directory, answering(reply()), {}) as (running, upstream, key):
        answer = await running.call(target, body, key=key)
        assert answer.status == 200, answer.body
        assert upstream.calls[0].body == body
        receipt = await running.receipt(answer, key)
        nano_usd = receipt["cost"]["held_nano_usd"]
        assert isinstance(nano_usd, int)
        return nano_usd


@pytest.mark.parametrize("more", [0, 10**6])
@scenario
async def test_a_compaction_within_its_cap_goes_on_as_it_came(tmp_path: Path, more: int) -> None:
    worst = await held(room(tmp_path, "uncapped"), COMPACT, BODY)
    async with capped(tmp_path, answering(reply()), {MODEL: worst + more}) as site:
        running, upstream, key = site
        answer = await running.call(COMPACT, BODY, key=key)
        assert answer.status == 200, answer.body
        assert upstream.calls[0].body == BODY
        receipt = await running.receipt(answer, key)
        assert receipt["cost"]["held_nano_usd"] == worst
        created = await running.call(CREATE, BODY, key=key)
        assert created.status == 200
        assert b"max_output_tokens" in upstream.calls[1].body, "where it can be set, it is"


@scenario
async def test_a_compaction_that_may_cost_more_than_its_cap_is_refused(tmp_path: Path) -> None:
    worst = await held(room(tmp_path, "uncapped"), COMPACT, BODY)
    async with capped(tmp_path, answering(reply()), {MODEL: worst - 1}) as site:
        running, upstream, key = site
        answer = await running.call(COMPACT, BODY, key=key)
        assert answer.status == 402
        error = answer.json()["error"]
        assert error["code"] == "call_cap_exceeded"
        assert error["param"] is None
        assert error["message"].endswith("no max_tokens fits"), "none could be said"
        assert not upstream.calls


@scenario
async def test_a_limit_that_a_compaction_names_lowers_nothing(tmp_path: Path) -> None:
    limited = BODY[:-1] + b',"max_output_tokens":1}'
    plain = await held(room(tmp_path, "plain"), COMPACT, BODY)
    assert await held(room(tmp_path, "limited"), COMPACT, limited) > plain, "its body is longer"
    assert await held(room(tmp_path, "created"), CREATE, limited) < plain

"""The head that goes to an upstream is kept for a connection: it must be that of each request."""

from pathlib import Path

import pytest
from harness import Call, gateway_before, reply, scenario
from translated_calls import (
    ALIASES,
    PAIR_IDS,
    PAIRS,
    UPSTREAMS,
    answer,
    asks_for_stream,
    events,
    path,
    question,
    stream,
    upstream_format,
)


async def says(call: Call) -> None:
    """Answers in the format that it was asked in, streamed where that was asked."""
    name = upstream_format(call)
    if asks_for_stream(call):
        await stream(call, events(name))
    else:
        await call.send(reply(answer(name)))


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
@scenario
async def test_each_request_of_a_connection_has_the_head_that_it_has_alone(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    caller, upstream_name = pair
    other = next(one for one in UPSTREAMS if one not in pair)
    # Twice the same, then what differs in nothing but the stream, or the model; and back again.
    this, that = f"on_{upstream_name}", f"on_{other}"
    calls = (
        (this, False), (this, False), (this, True), (this, True), (this, False), (that, False),
        (this, False),
    )  # fmt: skip
    asked = [
        (path(caller, model, stream=streamed), question(caller, model, stream=streamed))
        for model, streamed in calls
    ]
    async with gateway_before(tmp_path, says, more=ALIASES) as (gateway, upstream):
        key = await gateway.key()
        for target, body in asked:
            assert (await gateway.call(target, body, key=key)).status == 200
        alone = [(call.target, call.fields) for call in upstream.calls]
        upstream.calls.clear()
        client = await gateway.client()
        fields = [
            (b"Authorization", b"Bearer " + key), (b"Content-Type", b"application/json"),
        ]  # fmt: skip
        for target, body in asked:
            assert (await client.request("POST", target, fields, body)).status == 200
        assert [(call.target, call.fields) for call in upstream.calls] == alone
        client.close()

"""What translation costs is measured on calls that are translated, and told as it was."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench import payloads, report_pairs, targets
from bench.formats import FORMATS, AnswerCheck, Call, FormatName
from bench.load_requests import ClosedResult
from bench.load_streams import StreamsResult
from bench.measure import Window, spread_ms
from bench.pairs import CALLS
from bench.report_pairs import PairBlock
from bench.run import Loader
from bench.targets import Cores, Running

CORES = Cores.choose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def upstream(folder: Path) -> Iterator[Running]:
    with targets.upstream(CORES.load, folder) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(folder: Path, upstream: Running) -> Iterator[Running]:
    with targets.gateway(CORES.proxy, folder, upstream.port) as running:
        yield running


def send(target: Running, call: Call, *, chunks: int | None = None) -> tuple[int, bytes]:
    """One call, with its SDK's own header."""
    raw = call.request(target.port, target.key, call.body(1024, chunks), stream=chunks is not None)
    head, _, body = raw.partition(b"\r\n\r\n")
    _, *lines = head.decode().split("\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    try:
        path = call.path(stream=chunks is not None)
        headers = dict(line.split(": ", 1) for line in lines)
        connection.request("POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [1024, 102_400])
def test_a_body_of_each_format_has_exactly_the_size_asked_for(name: FormatName, size: int) -> None:
    body = Call(name, name).body(size, 3)
    assert len(body) == size
    msgspec.json.decode(body)


@pytest.mark.parametrize("name", FORMATS)
def test_the_upstream_answers_in_each_format(upstream: Running, name: FormatName) -> None:
    call = Call(name, name)
    assert send(upstream, call) == (200, FORMATS[name].answer)
    status, stream = send(upstream, call, chunks=2)
    assert status == 200
    assert stream.count(payloads.STAMP_MARK) == 2
    assert stream.count(FORMATS[name].ending) == 1
    assert stream.find(FORMATS[name].ending) > stream.rfind(payloads.STAMP_MARK)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.speaks}-{call.upstream}")
def test_each_pair_is_metered_and_translated_where_it_should_be(
    gateway: Running, call: Call
) -> None:
    targets.check_metering(gateway, stream=False, call=call)
    targets.check_metering(gateway, stream=True, call=call)
    status, body = send(gateway, call)
    assert status == 200
    assert AnswerCheck(call).right(body)
    assert (body == FORMATS[call.speaks].answer) is not call.translated


def test_translated_loads_end_without_errors(
    folder: Path, upstream: Running, gateway: Running
) -> None:
    loader = Loader(CORES.load, upstream, folder)
    pair = {"speaks": "messages", "upstream": "chat"}
    closed = loader.load(gateway, "closed", ClosedResult, seconds=0.2, connections=4, **pair)
    streams = loader.load(
        gateway, "streams", StreamsResult, streams=5, open_seconds=0.1, seconds=0.2, **pair
    )
    assert closed.requests > 0
    assert streams.chunks > 0
    assert closed.errors == streams.errors == {}


TRANSLATED = Call("messages", "chat")
WRITTEN = (
    b'{"id":"msg_1","content":[{"type":"text","text":"Paris is the capital of France."}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":261,"output_tokens":8}}'
)


def test_a_translated_answer_may_change_its_id_and_nothing_else() -> None:
    check = AnswerCheck(TRANSLATED)
    assert check.right(WRITTEN)
    assert check.right(WRITTEN.replace(b"msg_1", b"msg_2"))
    assert not check.right(WRITTEN.replace(b"Paris", b"Lyons"))
    assert not check.right(WRITTEN.replace(b"msg_1", b"msg_12"))


@pytest.mark.parametrize(
    ("said", "changed"),
    [(b"end_turn", b"max_tokens"), (b":261", b":262"), (b"Paris", b"Lyons"), (b"]", b"")],
)
def test_a_first_answer_that_says_something_else_is_wrong(said: bytes, changed: bytes) -> None:
    assert not AnswerCheck(TRANSLATED).right(WRITTEN.replace(said, changed))


def test_an_answer_passed_through_must_be_the_upstreams_byte_for_byte() -> None:
    check = AnswerCheck(Call("chat", "chat"))
    assert check.right(payloads.ANSWER)
    assert not check.right(payloads.ANSWER + b" ")


def block(call: Call, round_: int, cost_us: float) -> PairBlock:
    """A pair of which every request and chunk took `cost_us`."""
    late = spread_ms([1_000_000])
    window = Window(2.0, round(cost_us * 100_000), 1, 1, 0.0)
    streams = StreamsResult(
        streams=10,
        open_at_once=10,
        chunks=100,
        pace=1.0,
        window=window,
        first_byte=late,
        late=late,
        gap_error=late,
        rss_idle_bytes=0,
        rss_open_bytes=0,
        rss_per_stream_bytes=1.0,
        errors={},
    )
    return PairBlock(call, round_, ClosedResult(100, window, late, {}), streams)


# The machine got three times as slow after the first round.
ROUNDS = [
    block(call, round_, cost * (1 + 2 * round_))
    for round_ in (0, 1)
    for call, cost in (
        (Call("chat", "chat"), 100),
        (Call("messages", "messages"), 50),
        (Call("chat", "messages"), 120),
    )
]


def test_ratios_to_both_passthroughs_are_taken_within_a_round() -> None:
    found = report_pairs.cells(ROUNDS, Call("chat", "messages"))
    assert found["1 KB × caller"].median == found["chunk × caller"].high == pytest.approx(1.2)
    assert found["1 KB × upstream"].low == found["1 KB × upstream"].high == pytest.approx(2.4)
    assert found["chunk"].median == pytest.approx(240)
    assert "chunk × caller" not in report_pairs.cells(ROUNDS, Call("chat", "chat"))


def test_goals_are_judged_by_the_cheaper_passthrough() -> None:
    assert report_pairs.goals(ROUNDS) == [
        "MISSED CPU per translated JSON request, × passthrough: 2.4 (chat → messages; goal ≤ 1.5)",
        "MISSED CPU per translated chunk, × passthrough: 2.4 (chat → messages; goal ≤ 2)",
    ]
    table = report_pairs.table(ROUNDS)
    assert "chat → messages" in table
    assert "2.40…2.40" in table

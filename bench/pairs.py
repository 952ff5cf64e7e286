"""What translation costs: clients and upstreams of two formats beside those of one, in one process.

Every pair gets the same load, in turn, on the same gateway, so that a ratio compares two loads
seconds apart and nothing else. A round has a fresh gateway, and every other one runs in reverse.
Called by `run.py`; `report_pairs.py` makes the table of it.
"""

from typing import Final, Protocol

from bench import targets
from bench.formats import Call
from bench.load_requests import ClosedResult
from bench.load_streams import StreamsResult
from bench.report_pairs import PairBlock
from bench.targets import Running

CALLS: Final[tuple[Call, ...]] = (
    Call("chat", "chat"),
    Call("chat", "messages"),
    Call("messages", "messages"),
    Call("messages", "chat"),
    Call("gemini", "gemini"),
    Call("gemini", "chat"),
    Call("chat", "gemini"),
)
"""Client and upstream; each translated one stands beside the passthrough of both its formats."""


class Load(Protocol):
    """Runs one load of a call and returns what was measured."""

    def small(self, gateway: Running, call: Call) -> ClosedResult:
        """Requests of 1 KB in a closed loop."""
        ...

    def streams(self, gateway: Running, call: Call) -> StreamsResult:
        """Paced streams."""
        ...


def check(gateway: Running) -> None:
    """BenchError unless every pair is metered, billed, and translated where it should be."""
    for call in CALLS:
        targets.check_metering(gateway, stream=False, call=call)
        targets.check_metering(gateway, stream=True, call=call)


def measure(load: Load, gateway: Running, round_: int) -> list[PairBlock]:
    """One round: all pairs in turn, first the requests, then the streams."""
    check(gateway)
    calls = CALLS if round_ % 2 == 0 else tuple(reversed(CALLS))
    small = {call: load.small(gateway, call) for call in calls}
    streams = {call: load.streams(gateway, call) for call in calls}
    return [PairBlock(call, round_, small[call], streams[call]) for call in CALLS]

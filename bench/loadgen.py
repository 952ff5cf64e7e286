"""The load generator: one kind of load on one port, one JSON document on stdout.

    python -m bench.loadgen closed  --port P --upstream-pid PID [--proxy-pid PID]
                                    [--body-bytes 1024] [--connections 64] [--seconds 3]
                                    [--speaks chat] [--upstream chat]
    python -m bench.loadgen open    … [--per-second 1000]
    python -m bench.loadgen streams … [--streams 1000] [--open-seconds 2]

The shapes of the documents are `ClosedResult`, `OpenResult` and `StreamsResult`. The gateway key,
if any, comes in BENCH_KEY. Exit status 1 if anything was answered wrongly or not at all; the
errors are in the document. Loopback only.
"""

import argparse
import gc
import os
import sys

import msgspec
import uvloop

from bench.formats import FORMATS, Call
from bench.load_requests import Aim, ClosedResult, OpenResult, closed_loop, open_loop
from bench.load_streams import StreamsResult, paced_streams
from bench.measure import raise_descriptor_limit

WARM_UP_SECONDS = 0.5


async def generate(options: argparse.Namespace) -> ClosedResult | OpenResult | StreamsResult:
    """Run the load that the command line asked for."""
    aim = Aim(
        port=options.port,
        key=os.environ.get("BENCH_KEY", "sk-bench"),
        upstream_pid=options.upstream_pid,
        proxy_pid=options.proxy_pid,
        call=Call(options.speaks, options.upstream),
    )
    # Everything allocated while measuring is small and bounded by the run's length; a collection
    # would be measured as the target's latency.
    gc.collect()
    gc.disable()
    match options.kind:
        case "closed":
            return await closed_loop(
                aim, options.body_bytes, options.connections, WARM_UP_SECONDS, options.seconds
            )
        case "open":
            return await open_loop(
                aim, options.body_bytes, options.per_second, options.connections, options.seconds
            )
        case _:
            return await paced_streams(
                aim, options.streams, options.open_seconds, options.seconds, options.body_bytes
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Load one target; print what was measured.")
    parser.add_argument("kind", choices=("closed", "open", "streams"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream-pid", type=int, required=True)
    parser.add_argument("--proxy-pid", type=int)
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--per-second", type=float, default=1000)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--open-seconds", type=float, default=2)
    parser.add_argument("--speaks", choices=tuple(FORMATS), default="chat")
    parser.add_argument("--upstream", choices=tuple(FORMATS), default="chat")
    options = parser.parse_args()
    raise_descriptor_limit()
    result = uvloop.run(generate(options))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.exit(1 if result.errors else 0)


if __name__ == "__main__":
    main()

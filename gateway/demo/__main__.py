"""Runs the built-in upstream alone: `python -m gateway.demo --port N`, until interrupted."""

import argparse
import asyncio
import signal
import sys

from gateway.demo.server import start


async def _serve(host: str, port: int) -> None:
    runner, bound = await start(host, port)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    sys.stdout.write(f"demo upstream on http://{host}:{bound}\n")
    sys.stdout.flush()
    try:
        await stopped.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes any free one (default)")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()

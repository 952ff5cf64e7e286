"""Starts and stops what is measured: upstream, naive proxy, gateway, nginx.

Every server runs pinned to one core, with its output in a file, and dies with this process. Used
by `run.py`, `profile.py` and tests; nothing here measures.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from bench.formats import Call
from bench.measure import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 8.0
VERB_SECONDS_MAX = 30.0
SERVER_SECONDS_MAX = 900
"""The servers of this folder end by themselves after this, whatever happens to the run."""

TargetName = Literal["direct", "naive", "gateway", "nginx"]


class BenchError(Exception):
    """The measurement cannot go on: a server did not start, or answered wrongly."""


class Cores(msgspec.Struct, frozen=True):
    """Proxy under test alone on one core, upstream and generator on another."""

    proxy: int
    load: int

    @classmethod
    def choose(cls) -> "Cores":
        """The first and the last allowed core (the same one where there is only one)."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(proxy=allowed[0], load=allowed[-1])


class Running(msgspec.Struct, frozen=True):
    """A server that answers on 127.0.0.1:`port`. `key` is what its callers present."""

    name: TargetName
    port: int
    pid: int
    key: str


def spawn(
    command: Sequence[str], core: int, log: Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process on one core; stdout and stderr go to `log`."""
    before = os.sched_getaffinity(0)
    # Pinned before it starts and not after, so that each thread it ever makes is pinned too.
    os.sched_setaffinity(0, {core})
    try:
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=die_with_parent,
            )
    finally:
        os.sched_setaffinity(0, before)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; returns when it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str, key: str = "") -> tuple[int, bytes]:
    """One GET on loopback: status and body. OSError if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def await_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Return once GET `path` answers 200; BenchError with the log's end if it never does."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if get(port, path)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:]
    raise BenchError(f"{process.args!r} did not become ready:\n{tail}")


@contextmanager
def _serving(
    name: TargetName,
    command: Sequence[str],
    core: int,
    place: tuple[int, str, Path],
    key: str = "sk-bench",
) -> Iterator[Running]:
    port, ready_path, log = place
    process = spawn(command, core, log)
    try:
        await_ready(process, port, ready_path, log)
        yield Running(name, port, process.pid, key)
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-2000:]
            raise BenchError(f"{name} ended with {process.returncode} while measured:\n{tail}")
    finally:
        stop(process)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def upstream(core: int, folder: Path) -> Iterator[Running]:
    """The provider that answers everything."""
    port = free_port()
    command = _python(
        "bench.upstream", "--port", str(port), "--max-seconds", str(SERVER_SECONDS_MAX)
    )
    place = (port, "/healthz", folder / "upstream.log")
    with _serving("direct", command, core, place) as running:
        yield running


@contextmanager
def naive(core: int, folder: Path, upstream_port: int) -> Iterator[Running]:
    """The ordinary aiohttp proxy."""
    port = free_port()
    command = _python(
        "bench.naive_proxy",
        "--upstream",
        f"http://127.0.0.1:{upstream_port}",
        "--port",
        str(port),
        "--max-seconds",
        str(SERVER_SECONDS_MAX),
    )
    with _serving("naive", command, core, (port, "/healthz", folder / "naive.log")) as running:
        yield running


# Limits are on and never reached: the work of checking them is part of what is measured.
_GATEWAY_CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}
drain_seconds = 2

[store]
path = "{store}"
durability = "full"

[limits]
rpm = 100000000
tpm = 100000000000
concurrent = 100000

[providers.openai]
format = "openai"
base_url = "http://127.0.0.1:{upstream_port}/v1"
keys = ["sk-bench-upstream"]

[providers.anthropic]
format = "anthropic"
base_url = "http://127.0.0.1:{upstream_port}/v1"
keys = ["sk-ant-bench-upstream"]

[providers.google]
format = "gemini"
base_url = "http://127.0.0.1:{upstream_port}/v1beta"
keys = ["bench-upstream"]
"""


def _verb(config: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        _python("gateway", *words, "--json", "--config", str(config)),
        cwd=ROOT,
        capture_output=True,
        timeout=VERB_SECONDS_MAX,
        check=False,
    )


def must(config: Path, *words: str) -> bytes:
    """What a verb of the command answers as JSON; BenchError where it refuses."""
    done = _verb(config, *words)
    if done.returncode != 0:
        fault = done.stderr.decode(errors="replace")[-2000:]
        raise BenchError(f"gateway {' '.join(words)}: exit {done.returncode}\n{fault}")
    return done.stdout


class _IssuedKey(msgspec.Struct):
    key: str


def config_of(folder: Path, port: int) -> Path:
    """Where the configuration of `gateway` lies that listens on that port."""
    return Path(folder, f"gateway-{port}", "config.toml")


@contextmanager
def gateway(
    core: int, folder: Path, upstream_port: int, store: Path | None = None
) -> Iterator[Running]:
    """The gateway with everything on: a key, limits, prices, durable receipts, metrics.

    Its store is new each time, unless one is given to go on with; its configuration lies in
    `config_of`. BenchError unless a first call left a receipt with reported usage
    and a billed cost: a gateway that skipped its work would win every comparison.
    """
    port = free_port()
    config = config_of(folder, port)
    place = config.parent
    place.mkdir()
    config.write_text(
        _GATEWAY_CONFIG.format(
            port=port, store=store or place / "gateway.db", upstream_port=upstream_port
        )
    )
    user = f"bench-{port}"
    must(config, "users", "create", user)
    limits = ("--rpm", "1000000000", "--tpm", "1000000000000", "--concurrent", "100000")
    issued = must(config, "keys", "create", "--user", user, *limits)
    key = msgspec.json.decode(issued, type=_IssuedKey).key
    must(config, "credit", user, "1000000.00")
    command = _python("gateway", "serve", "--config", str(config))
    try:
        with _serving(
            "gateway", command, core, (port, "/readyz", place / "gateway.log"), key
        ) as running:
            check_metering(running, stream=False)
            check_metering(running, stream=True)
            yield running
    finally:
        shutil.rmtree(place, ignore_errors=True)


_CHAT = Call("chat", "chat")


class _ReceiptUsage(msgspec.Struct):
    source: str


class _ReceiptCost(msgspec.Struct):
    billed: bool
    nano_usd: int | None


class _ReceiptRoute(msgspec.Struct):
    translated: bool


class _Receipt(msgspec.Struct):
    status: str
    route: _ReceiptRoute
    usage: _ReceiptUsage
    cost: _ReceiptCost


def check_metering(running: Running, *, stream: bool, call: Call = _CHAT) -> None:
    """Make one call and read its receipt.

    BenchError unless it was metered and billed, and translated or not as it should be.
    """
    body = call.body(1024, 2 if stream else None)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    try:
        connection.request(
            "POST",
            call.path(stream=stream),
            body=body,
            headers={
                "Authorization": f"Bearer {running.key}",
                "Content-Type": "application/json",
            },
        )
        answer = connection.getresponse()
        receipt_id = answer.getheader("X-Badgr-Receipt-Id")
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200 or receipt_id is None:
        raise BenchError(f"a first call was answered {answer.status}: {content[:500]!r}")
    status, document = get(running.port, f"/v1/receipts/{receipt_id}", running.key)
    if status != 200:
        raise BenchError(f"the receipt of a first call was answered {status}: {document[:500]!r}")
    receipt = msgspec.json.decode(document, type=_Receipt)
    metered = receipt.status == "succeeded" and receipt.usage.source == "reported"
    if not (metered and receipt.cost.billed and receipt.cost.nano_usd):
        raise BenchError(f"a first call was not metered and billed: {document[:1500]!r}")
    if receipt.route.translated is not call.translated:
        raise BenchError(f"a first call took another way than {call}: {document[:1500]!r}")


_NGINX_CONFIG = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    client_body_buffer_size 256k;
    keepalive_requests 100000000;
    tcp_nodelay on;
    upstream provider {{
        server 127.0.0.1:{upstream_port};
        keepalive 2048;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def nginx_path() -> str | None:
    """The nginx of this machine, or None: it is a yardstick, not a requirement."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(core: int, folder: Path, upstream_port: int) -> Iterator[Running]:
    """A plain reverse proxy, nginx: unbuffered, upstream kept alive, no log, one process."""
    executable = nginx_path()
    if executable is None:
        raise BenchError("nginx is not installed")
    port = free_port()
    place = Path(folder, f"nginx-{port}")
    place.mkdir()
    config = place / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(folder=place, port=port, upstream_port=upstream_port))
    command = [executable, "-p", str(place), "-c", str(config)]
    with _serving("nginx", command, core, (port, "/healthz", place / "nginx.log")) as running:
        yield running

"""Providers at run time: where each one lives, which keys it has, what it serves.

Built once from a `Config` by `app.py`, read by routing and the handler. `health.py` will rest and
set aside keys; here they rotate.
"""

import itertools
from collections.abc import Iterator

import msgspec

from gateway import config as cfg
from gateway.config import Config, Family
from gateway.proxy.upstream import Origin, parse_base_url

DEMO_BASES: dict[Family, str] = {
    "openai": "/v1",
    "anthropic": "/anthropic/v1",
    "gemini": "/gemini/v1beta",
}
"""Where the built-in upstream serves each family."""

FAMILIES: tuple[Family, ...] = ("openai", "anthropic", "gemini")


class Base(msgspec.Struct, frozen=True):
    """Where one family of a provider is reached: origin and path prefix."""

    origin: Origin
    prefix: str


class Provider:
    """One configured provider."""

    def __init__(self, name: str, settings: cfg.Provider, bases: dict[Family, Base]) -> None:
        self.name = name
        self.catalog_name = settings.catalog or name
        self.unmetered = settings.unmetered or settings.base_url == cfg.BUILTIN_DEMO
        self.include_usage = settings.include_usage
        self.bases = bases
        keys = [key for key in map(cfg.secret, settings.keys) if key is not None]
        self.keys = [key.encode() for key in keys]
        if settings.base_url == cfg.BUILTIN_DEMO and not keys:
            self.keys = [b"demo"]  # it wants some credential, as the real ones do
        self.keyless = not settings.keys
        """True where no key was configured at all: a local server that wants none."""
        self._rotation: Iterator[bytes] = itertools.cycle(self.keys)

    @property
    def active(self) -> bool:
        """Whether a gateway key can be served by it."""
        return self.keyless or bool(self.keys)

    def next_key(self) -> bytes | None:
        """The provider key for the next call; None for a keyless provider."""
        return next(self._rotation) if self.keys else None


def build(config: Config, demo_port: int | None) -> dict[str, Provider]:
    """The providers of a config; `demo_port` is where the built-in upstream listens."""
    providers = {}
    for name, settings in config.providers.items():
        if settings.base_url == cfg.BUILTIN_DEMO:
            if demo_port is None:
                continue
            bases = {
                family: Base(_origin(config, settings, f"http://127.0.0.1:{demo_port}"), prefix)
                for family, prefix in DEMO_BASES.items()
            }
        else:
            assert settings.format != "all"
            prefix = parse_base_url(settings.base_url)[3]
            bases = {settings.format: Base(_origin(config, settings, settings.base_url), prefix)}
        providers[name] = Provider(name, settings, bases)
    return providers


def _origin(config: Config, settings: cfg.Provider, base_url: str) -> Origin:
    common = config.upstream
    scheme, host, port, _ = parse_base_url(base_url)
    return Origin(
        scheme=scheme,
        host=host,
        port=port,
        ca_file=common.ca_file if settings.ca_file is None else settings.ca_file,
        connect_s=settings.connect_seconds or common.connect_seconds,
        first_byte_s=settings.first_byte_seconds or common.first_byte_seconds,
        idle_s=settings.idle_seconds or common.idle_seconds,
    )

"""Where the gateway may be sent by an admin: public addresses over https, and nowhere else.

A base URL from the configuration file is the operator's own word; one that was set over the admin
API is not, and would otherwise reach whatever the gateway's machine reaches (its loopback, its
network, its cloud's metadata service). It is checked twice: `check_base_url` when it is set, so
that a mistake is told at once, and `Guard.addresses` at every new connection, which then goes to
one of the addresses that were checked. Only the second is a defence: a name may resolve to
something else a second later. Called by `upstream.py`, and by the admin verbs through a callable.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable

import msgspec

from gateway.errors import Conflict

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Gives the addresses of a host and port as text; OSError where there are none."""

RESOLVE_SECONDS_MAX = 5.0
"""How long setting a URL waits for its name; a connection has its own limit."""

URL_CHARS_MAX = 1024

_NETWORKS_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        # IANA IPv4 Special-Purpose Address Registry (read 2026-11-21), and multicast. Written out
        # because what `is_global` says differs between releases of Python.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # Azure's host and metadata agent: a public address that answers only from inside.
        "168.63.129.16/32",
        # IANA IPv6 Special-Purpose Address Registry, within the global unicast block.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""What stands above the IPv4 address in the last half of an ISATAP one (RFC 5214 §6.1)."""

_URL = re.compile(
    r"(?i:https)://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*)/?"
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Refused(Exception):
    """A guarded connection is not made; the message names no address."""


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the Internet may be at.

    IPv4 inside IPv6 is judged by the IPv4 address where networks still translate it (mapped,
    NAT64's well-known prefix), and refused where they no longer do (6to4, Teredo, compatible,
    ISATAP). Anything else that is not global unicast is refused, text that is no address too.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        elif ip not in _GLOBAL_UNICAST or (int(ip) >> 32) & 0xFFFF_FFFF in _ISATAP:
            return False
    # Both: what a newer Python has learnt to refuse is refused as well.
    return ip.is_global and not any(ip in network for network in _NETWORKS_REFUSED)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard(msgspec.Struct, frozen=True):
    """How names are resolved, and which addresses are let through."""

    resolve: Resolve = resolve
    permitted: Callable[[str], bool] = is_public

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, each of them checked.

        Raises Refused where one is not let through, even if others are: a name that answers with
        both a public and a private address is no provider's. OSError where the name has none.
        """
        found = await self.resolve(host, port)
        if not found:
            raise OSError("the name has no address")
        if not all(map(self.permitted, found)):
            raise Refused("the host is not at a public address")
        return found


GUARD = Guard()


async def check_base_url(url: str, guard: Guard = GUARD) -> str:
    """Check a base URL that an admin sets; returns it in its one spelling.

    That is `https://host[:port][/path]`, in lower case up to the path, without a default port or a
    slash at the end. Raises Conflict ("base_url: …") for anything else, for an address that is not
    public, and for a name that does not resolve, or not to public addresses only.
    """
    host, port, path = _parts(url)
    try:
        async with asyncio.timeout(RESOLVE_SECONDS_MAX):
            await guard.addresses(host.strip("[]"), port)
    except Refused as exc:
        raise Conflict(f"base_url: {exc}") from None
    except TimeoutError:
        raise Conflict("base_url: its host was not resolved in time") from None
    except (OSError, UnicodeError):
        raise Conflict("base_url: its host does not resolve") from None
    return f"https://{host}{'' if port == 443 else f':{port}'}{path}"


def _parts(url: str) -> tuple[str, int, str]:
    """Host (IPv6 in brackets), port and path of a URL that is spelt in the one way allowed.

    The grammar is far narrower than a URL's, so that no two parsers can read it differently: no
    user, query, fragment, escape, backslash or space; no host that is a number in disguise.
    """
    match = _URL.fullmatch(url) if len(url) <= URL_CHARS_MAX else None
    if match is None:
        raise Conflict("base_url: expected https://host[:port][/path], and nothing else")
    host, port, path = match["host"].lower(), int(match["port"] or 443), match["path"]
    if port > 65_535:
        raise Conflict("base_url: a port is at most 65535")
    if any(part in (".", "..") for part in path.split("/")):
        raise Conflict("base_url: its path has a step up or none")
    if host.startswith("["):
        return f"[{_literal(host[1:-1])}]", port, path
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # What ends in a number is an IPv4 address to browsers and C libraries, in octal,
        # hexadecimal or with parts left out as well (WHATWG URL §3.5): only one spelling is taken.
        return _literal(host), port, path
    if len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)):
        raise Conflict("base_url: its host is not a full domain name")
    return host, port, path


def _literal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise Conflict("base_url: its host is neither a name nor a plain IP address") from None

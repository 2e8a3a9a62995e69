"""Restricts webhooks to public addresses and those the operator allows.

A name is resolved, all of its addresses are checked, and the connection goes to a checked address. This
prevents DNS rebinding, where a later lookup gives another address.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpcore

from infra.errors import InvalidInput, Unavailable, UserError
from serving.threads import CALLED_NAMES, NAMES

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public, although Python 3.11's `is_global` does not know it. `is_reserved` would reject too much:
# it includes NAT64's network.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48",  # a site's own NAT64
        "::ffff:0:0:0/96",  # SIIT: IPv4 as its translator sees it
        "fec0::/10",  # site-local, the predecessor of fc00::/7
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "192.0.0.0/24",  # IETF protocols
        "192.88.99.0/24",  # former 6to4 relays
    )
)
RESOLVE_TIMEOUT = 5.0  # seconds
Run = Callable[..., Awaitable[Any]]  # runs a call in a thread: `run` of `Threads` or `Shares`


class Refused(InvalidInput):
    """The address is not allowed for webhooks."""

    default_code = "webhook_refused"


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The configured networks (`ServeConfig.webhook_networks`)."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def embedded(address: Address) -> list[Address]:
    """The address and the IPv4 addresses embedded in it."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        found += [address.sixtofour] if address.sixtofour is not None else []
        found += list(address.teredo or ())
        if address in NAT64 or int(address) >> 32 == 0:  # NAT64, and the old ::a.b.c.d
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether the operator allows the address."""
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in network for network in allowed if network.version == mapped.version)


def is_public(address: Address) -> bool:
    """Whether every form of the address is public: not private, loopback, link-local, shared, multicast."""
    mapped = getattr(address, "ipv4_mapped", None)
    forms = [mapped] if mapped is not None else embedded(address)
    return all(
        form.is_global and not form.is_multicast and not any(form in network for network in NOT_PUBLIC)
        for form in forms
    )


def split_url(url: str) -> SplitResult:
    """Split a webhook's URL. Raises Refused unless it is http(s)://host[:port]/..., no user, no fragment."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
        host = parts.hostname or ""
        host.encode("ascii")
    except (ValueError, UnicodeError):
        parts, port_fits, host = urlsplit(""), False, ""
    plain = all("!" <= letter <= "~" and letter not in '\\"<>' for letter in url)
    if (
        parts.scheme not in ("http", "https")
        or not (plain and port_fits and host)
        or "@" in parts.netloc
        or parts.fragment
        or "%" in host
    ):
        raise Refused("webhook_url: expected https://host/path, without user, password or fragment.")
    return parts


async def resolve(host: str, port: int, allowed: Sequence[Network], run: Run = NAMES.run) -> list[Address]:
    """All addresses of a host, checked.

    Args:
        run: runs the name lookup in a thread.

    Raises:
        Refused: an address is neither public nor allowed, or the name does not exist.
        Unavailable: the name servers did not answer in time.
    """
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            infos = await run(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
        if isinstance(error, TimeoutError) or getattr(error, "errno", None) == socket.EAI_AGAIN:
            raise resolver_slow(host) from None
        raise Refused(f"webhook_url: {host[:100]} cannot be resolved; check the name.") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in infos))
    if not addresses or not all(is_public(one) or is_allowed(one, allowed) for one in addresses):
        raise Refused(
            f"webhook_url: {host[:100]} is not a public address; the server's operator may allow its network "
            "(webhook_networks)."
        )
    return addresses


def resolver_slow(host: str) -> UserError:
    return Unavailable(
        f"webhook_url: the name servers did not resolve {host[:100]} (waited up to {RESOLVE_TIMEOUT:g} s); try again in a "
        "few seconds.",
        code="resolver_slow",
    )


async def check_url(url: str, allowed: Sequence[Network], run: Run = NAMES.run) -> None:
    """Raise Refused for a forbidden URL (see `split_url` and `resolve`). HTTP needs an allowed network."""
    parts = split_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await resolve(parts.hostname or "", port, allowed, run)
    if parts.scheme == "http" and not all(is_allowed(address, allowed) for address in addresses):
        raise Refused(
            "webhook_url: http:// is possible only in networks that the operator allows; give an https:// URL."
        )


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only; tries each in turn."""

    def __init__(self, allowed: Sequence[Network], run: Run) -> None:
        self._allowed, self._run, self._inner = allowed, run, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        last: Exception = OSError(f"{host} has no address")
        for address in await resolve(host, port, self._allowed, self._run):
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@functools.cache
def public_tls() -> ssl.SSLContext:
    """A TLS context that trusts the public authorities. Cached: loading it takes tens of milliseconds."""
    return httpcore.default_ssl_context()


async def post(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    allowed: Sequence[Network],
    timeout: float,
    run: Run = CALLED_NAMES.run,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Send a POST and return the answer's status. Follows no redirect, uses no proxy, reads no body.

    Raises:
        Refused: the address is not allowed for webhooks (any more).
        Unavailable: the name servers did not answer in time.
        TimeoutError: no status in `timeout` seconds.
        httpcore.NetworkError, httpcore.ProtocolError, OSError: no answer, or not an HTTP answer.
    """
    await check_url(url, allowed, run)
    backend = CheckedBackend(allowed, run)
    async with (
        asyncio.timeout(timeout),
        httpcore.AsyncConnectionPool(
            ssl_context=tls or public_tls(), network_backend=backend, max_keepalive_connections=0
        ) as pool,
        pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
    ):
        return response.status

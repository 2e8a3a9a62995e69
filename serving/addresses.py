"""Where a webhook may go: public addresses, and those the operator allows.

A name is resolved, every address it has is checked, and the connection goes to a checked address: a name that says
something else a moment later (DNS rebinding) gains nothing.
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
# Not for everyone to reach, whatever `is_global` says: that of Python 3.11 does not know them. `is_reserved` would be too
# much, for it has NAT64's own network as well.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48",  # a site's own NAT64
        "::ffff:0:0:0/96",  # SIIT: IPv4 as its translator sees it
        "fec0::/10",  # site-local, as it was before fc00::/7
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "192.0.0.0/24",  # IETF protocols
        "192.88.99.0/24",  # 6to4 relays, as there were
    )
)
RESOLVE_TIMEOUT = 5.0  # seconds
Run = Callable[..., Awaitable[Any]]  # of `Threads` or `Shares`: what a call answers, in a thread


class Refused(InvalidInput):
    """No webhook may go there."""

    default_code = "webhook_refused"


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as configured (`ServeConfig.webhook_networks`)."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def embedded(address: Address) -> list[Address]:
    """The address, and the IPv4 ones that it is another form of."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        found += [address.sixtofour] if address.sixtofour is not None else []
        found += list(address.teredo or ())
        if address in NAT64 or int(address) >> 32 == 0:  # NAT64, and the old ::a.b.c.d
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether the operator named it."""
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in network for network in allowed if network.version == mapped.version)


def is_public(address: Address) -> bool:
    """Whether everyone can reach it, in all its forms: not private, loopback, link-local, shared, multicast ..."""
    mapped = getattr(address, "ipv4_mapped", None)
    forms = [mapped] if mapped is not None else embedded(address)
    return all(
        form.is_global and not form.is_multicast and not any(form in network for network in NOT_PUBLIC)
        for form in forms
    )


def split_url(url: str) -> SplitResult:
    """The parts of a webhook's URL. Raises Refused unless it is http(s)://host[:port]/..., without user or fragment."""
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
    """Every address of a host, all of them checked.

    Args:
        run: has a name looked up in a thread.

    Raises:
        Refused: one of them is neither public nor allowed, or there is no such name.
        Unavailable: the name servers do not say (yet).
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
        f"webhook_url: the name servers do not say where {host[:100]} is (waited for {RESOLVE_TIMEOUT:g} s at most); try "
        "again in some seconds.",
        code="resolver_slow",
    )


async def check_url(url: str, allowed: Sequence[Network], run: Run = NAMES.run) -> None:
    """Raises Refused for a URL no webhook may go to: see `split_url` and `resolve`; without TLS only where allowed."""
    parts = split_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await resolve(parts.hostname or "", port, allowed, run)
    if parts.scheme == "http" and not all(is_allowed(address, allowed) for address in addresses):
        raise Refused("webhook_url: http:// is for networks that the operator allows; give an https:// URL.")


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only, each tried in turn."""

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
    """That of the public authorities: made once, for it is read from a file for tens of milliseconds."""
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
    """POST, follow no redirect, use no proxy, read no answer but its status.

    Raises:
        Refused: the address is none for webhooks (any more).
        Unavailable: the name servers do not say where it is.
        TimeoutError: no status in `timeout` seconds.
        httpcore.NetworkError, httpcore.ProtocolError, OSError: nobody answers, or not in HTTP.
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

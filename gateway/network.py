"""Owns who is on the other side of a connection: the address, the host and the scheme, also behind trusted proxies.

Everything here is read from headers that anybody can send. What is not well formed counts as not sent.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec
from sanic import Request

from gateway.settings import Networks

# A name or an address, and perhaps a port. Nothing else belongs in front of the path of an address.
_HOST = re.compile(r"(?P<name>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.IGNORECASE)
# Whoever has IPv6 has a whole /64 of it, and could come from another address for every try.
_SUBSCRIBER_BITS = 64
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Client(msgspec.Struct, frozen=True):
    """`host` is what the browser's address bar shows, with its port; `is_secure` whether it came over https."""

    address: str
    host: str
    is_secure: bool

    @property
    def is_local(self) -> bool:
        """Whether the browser asked for this very machine, which no network lies between."""
        found = _HOST.fullmatch(self.host)
        name = found["name"].strip("[]") if found else ""
        address = _parsed(name)
        if address is not None:
            return address.is_loopback
        return name == "localhost" or name.endswith(".localhost")

    @property
    def origin(self) -> str:
        return f"{'https' if self.is_secure else 'http'}://{self.host}"

    @property
    def network(self) -> str:
        """Whose tries are counted together: the address, or the network that one subscriber has of IPv6."""
        address = _parsed(self.address)
        if not isinstance(address, ipaddress.IPv6Address):
            return self.address
        return str(ipaddress.IPv6Network((int(address), _SUBSCRIBER_BITS), strict=False))


def client_of(request: Request, trusted: Networks) -> Client:
    """What `X-Forwarded-*` says counts only when a trusted proxy says it; anybody can send such headers."""
    peer = _parsed(request.ip)
    address = request.ip if peer is None else str(peer)
    host, is_secure = request.headers.getone("host", ""), request.scheme in ("https", "wss")
    if peer is not None and _is_in(peer, trusted):
        # Each proxy adds the address that it saw: the nearest one that is not a proxy of ours is the client's.
        for hop in reversed(_listed(request, "x-forwarded-for")):
            found = _parsed(hop)
            if found is None:
                break
            address = str(found)
            if not _is_in(found, trusted):
                break
        # Of the others, what the nearest proxy says, which stands last.
        host = (_listed(request, "x-forwarded-host") or [host])[-1]
        is_secure = (_listed(request, "x-forwarded-proto") or [request.scheme])[-1].lower() in ("https", "wss")
    return Client(address, host.lower() if _HOST.fullmatch(host) else "", is_secure)


def split_address(address: str | None) -> SplitResult:
    """The parts of an address that somebody sent; all empty for what is none."""
    try:
        return urlsplit(address or "")
    except ValueError:
        return urlsplit("")


def _listed(request: Request, header: str) -> list[str]:
    return [part.strip() for line in request.headers.getall(header, []) for part in line.split(",") if part.strip()]


def _parsed(text: str) -> _Address | None:
    """An address in the one way of writing it: an IPv4 address within IPv6 is the former, and a zone is left out."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: _Address, networks: Networks) -> bool:
    return any(address in network for network in networks)

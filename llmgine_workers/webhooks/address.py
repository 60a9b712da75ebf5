"""Which addresses may be called: public ones by HTTPS, and what the settings allow."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from llmgine_workers.errors import LlmgineError

MAX_URL = 2048
LEAST_PORT = 1024
"""Below it only 443: a webhook is no way to speak to mail or shell servers."""
_INNER = ("localhost", ".localhost", ".local", ".internal", ".intranet", ".home.arpa")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotAllowed(LlmgineError):
    """An address that no webhook may have."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "webhook_not_allowed")


def check_url(url: str, allowed: Sequence[Network] = ()) -> None:
    """NotAllowed for what can be known without a look-up: form, port, literal address.

    Within `allowed` plain HTTP and any port will do.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotAllowed("is no address") from None
    host = (parts.hostname or "").rstrip(".")
    if len(url) > MAX_URL or not host or not url.isascii() or not url.isprintable():
        raise NotAllowed(f"must be an ASCII address of at most {MAX_URL} characters")
    if parts.username is not None or parts.password is not None:
        raise NotAllowed("may hold no user and no password")
    literal = _literal(host)
    if literal is not None:
        check_address(literal, allowed)
    inner = literal is not None and _is_among(literal, allowed)
    if parts.scheme != "https" and not (inner and parts.scheme == "http"):
        raise NotAllowed("must begin with https://")
    if not inner and port not in (None, 443) and (port or 0) < LEAST_PORT:
        raise NotAllowed(f"may have port 443, or one from {LEAST_PORT}")
    if literal is None and (host in _INNER or host.endswith(_INNER) or "." not in host):
        raise NotAllowed("must be the name of a public host")


def check_address(address: Address, allowed: Sequence[Network] = ()) -> None:
    """NotAllowed unless anybody on the internet could reach it, or it is allowed."""
    if _is_among(address, allowed):
        return
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inner is not None:
        check_address(inner, allowed)
    if not address.is_global or address.is_multicast or address in _NAT64:
        raise NotAllowed("leads to an address that is not public")


def network(text: str) -> Network:
    """`10.0.0.0/8` or one address; ValueError otherwise."""
    return ipaddress.ip_network(text)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _literal(host: str) -> Address | None:
    """The address that a host's text is, in all the ways the C library reads."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_among(address: Address, networks: Sequence[Network]) -> bool:
    return any(
        address.version == network.version and address in network for network in networks
    )

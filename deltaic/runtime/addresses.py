"""Addresses of nodes as people write them: HOST:PORT, [IPV6]:PORT or unix:/PATH, checked before anything starts."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from deltaic.errors import InvalidArgument

_LARGEST_PORT = 65_535
_UNIX = ("unix:", "unix-abstract:")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(dns|ipv4|ipv6|vsock):\D")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,253}[A-Za-z0-9._])?")
_WRITE = "write HOST:PORT, [IPV6]:PORT or unix:/PATH"


class BadAddress(InvalidArgument):
    """What should be an address of a node is none."""

    reason = "BAD_ADDRESS"


def check_address(text: str, *, listening: bool = False) -> str:
    """The address, without the blanks around it.

    Only one to listen on may have port 0, "take a free one", or no host, "every address of this machine".

    Raises BadAddress.
    """
    address = text.strip()
    if address.startswith(_UNIX):
        if not address.partition(":")[2].strip("/"):
            raise _bad(text, "the path of the socket is missing")
    elif _SCHEME.match(address):
        raise BadAddress(f"not an address of a node: {text!r}", hint="write HOST:PORT, without a scheme before it")
    else:
        host, port = host_and_port(address)
        if host or not listening:
            _check_host(host, text)
        if port == 0 and not listening:
            raise _bad(text, "port 0 is only for listening")
    return address


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; brackets around an IPv6 address stay. Raises BadAddress."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise _bad(address, "the port is missing" if address else "it is empty")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _LARGEST_PORT):
        raise _bad(address, f"a port is a number up to {_LARGEST_PORT}")
    return host, int(port)


def _check_host(host: str, text: str) -> None:
    if not host:
        raise _bad(text, "the host is missing")
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        elif ":" in host:
            raise _bad(text, "an IPv6 address stands in brackets")
        elif not _HOST.fullmatch(host):
            raise _bad(text, "the host is neither a name nor an IP address")
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ipaddress.AddressValueError:
        raise _bad(text, "the host is not an IP address") from None


def _bad(text: str, why: str) -> BadAddress:
    return BadAddress(f"not an address of a node: {text!r}, {why}", hint=_WRITE)


def _to_listen_on(text: str) -> str:
    return check_address(text, listening=True)


ListenAddress = Annotated[str, AfterValidator(_to_listen_on)]
"""The type of a setting that a node listens on."""

NodeAddress = Annotated[str, AfterValidator(check_address)]
"""The type of a setting that names another node."""

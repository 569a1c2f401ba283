"""Addresses of programs that receive faces, and a socket that never waits for them."""

import ipaddress
import logging
import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from canthus.runtime.errors import InputError, UsageError

_log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class Address(NamedTuple):
    """A host, as a name or an IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default: Address) -> Address:
    """Return the address of a text: "host", "host:port", "[::1]:port" or "port". What is missing is the default's.

    Raises InputError for any other text.
    """
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        port = port.removeprefix(":") if closed else "no port"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    elif text.isdecimal():
        host, port = "", text
    number = int(port) if port.isdecimal() and len(port) < 6 else default.port if not port else -1
    if host.count(":") and not _is_ipv6(host):
        number = -1
    if not 1 <= number <= 65535 or any(letter.isspace() or letter in "/@" for letter in host):
        raise UsageError(f"{text}: is no address (expected HOST, PORT or HOST:PORT, such as {default})")
    return Address(host or default.host, number)


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as seen from itself only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_every_address(host: str) -> bool:
    """Whether a host stands for all addresses of this machine: a server can be opened there, but nobody be reached."""
    return host in ("0.0.0.0", "::")


def as_seen_here(address: Address) -> Address:
    """Return the address at which this machine reaches a server of its own."""
    return address._replace(host={"0.0.0.0": LOOPBACK, "::": "::1"}.get(address.host, address.host))


def reason_of(error: OSError | UnicodeError) -> str:
    """Return why a host cannot be used, in a few words."""
    if isinstance(error, UnicodeError):  # Python cannot encode the name
        return "not the name of a host"
    if (code := error.errno or 0) > 0:  # below 0 if the host is unknown
        return os.strerror(code)
    return str(error.strerror or error).partition(" (")[0]  # socket.create_server adds the address


class UdpSender:
    """Sends datagrams to an address. It never waits: a datagram that the system cannot take is dropped.

    Raises InputError if the host is unknown.
    """

    def __init__(self, address: Address) -> None:
        if is_every_address(address.host):
            raise UsageError(f"{address}: is no machine to send to; give the address of one ({LOOPBACK}: this one)")
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
            family, _, _, _, target = found[0]
            self._target: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes] = target
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        except (OSError, UnicodeError) as error:
            raise InputError(f"{address}: cannot be reached ({reason_of(error)})") from error
        self.address = address
        self.problem = ""  # why the last datagram was not sent
        self._failed = False

    def send(self, packets: Iterable[bytes]) -> None:
        """Send datagrams. An error of the network is logged once."""
        for packet in packets:
            try:
                self._socket.sendto(packet, self._target)
                self.problem = ""
            except BlockingIOError:
                continue
            except OSError as error:
                self.problem = f"{self.address}: faces cannot be sent ({error.strerror or error})"
                if not self._failed:
                    _log.warning("%s", self.problem)
                self._failed = True

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


class UdpStream:
    """What the streams of datagrams have in common: where they are sent, and what became of it."""

    readers = None  # they do not answer

    def __init__(self, protocol: str, address: Address) -> None:
        self._sender = UdpSender(address)
        self.name = f"{protocol} to {address}"

    @property
    def problem(self) -> str:
        """Why the last frame was not sent; or empty."""
        return self._sender.problem

    def close(self) -> None:
        """Stop sending."""
        self._sender.close()

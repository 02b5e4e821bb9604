"""Calls to the addresses that clients name: where to, signed how, and in how much time.

Whoever may send a fold could otherwise have the master talk to its own network. So an address is looked at where it
is connected to, not where its name was resolved: a name is resolved once, and the connection goes to what was checked.
"""

import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import closing, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from django.conf import settings

MAX_URL = 500
TIMEOUT = 5.0
"""Seconds for the connection, and for each piece of the answer."""
MAX_SECONDS = 15.0
"""Seconds for all of a call: a receiver that sends a byte now and then is not waited for."""
MAX_ANSWER = 1 << 16
"""Bytes of an answer that are read; nothing is done with them."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class CallError(Exception):
    """A call did not arrive; the message says why, and holds neither the secret nor the whole address."""


class Target(NamedTuple):
    """A webhook's URL in its parts. path: with the query."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.secure else 80) else f"{name}:{self.port}"


def parse(url: str) -> Target:
    """The parts of a URL; ValueError says what would be right."""
    if len(url) > MAX_URL:
        raise ValueError(f"A webhook's URL has at most {MAX_URL} characters.")
    if not url.isascii() or not url.isprintable() or {*url} & {*' "<>\\^`{|}'}:
        raise ValueError("A URL has no blanks or other characters that are to be escaped; a host is in its xn-- form.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ValueError(f"This is no URL: {error}.") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("Send a URL such as https://example.org/datarun: http or https, and a host.")
    if "@" in parts.netloc:
        raise ValueError("A webhook's URL has no user or password: its calls are signed with webhook_secret.")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(secure, host, port or (443 if secure else 80), path)
    address = _literal(host)
    if address is not None and not allowed(address):
        raise ValueError(f"{host} is {_kind(address)}: a webhook is called at a public address.")
    return target


def allowed(address: Address) -> bool:
    """Whether a webhook may be there: a public address, or one of DATARUN_WEBHOOK_ALLOW."""
    meant = _meant(address)
    if any(one in network for one in meant for network in settings.WEBHOOK_ALLOW):
        return True
    return all(_is_public(one) for one in meant)


def sign(secret: str, body: bytes) -> str:
    """The value of X-Datarun-Signature."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def send(url: str, secret: str, delivery: str, body: bytes) -> None:
    """Post the body; CallError unless the answer is a 2xx. Redirects are not followed."""
    try:
        target = parse(url)
        with closing(_connect(target)) as connection:
            assert connection.sock is not None
            # The time-out of a socket is one of each read; all of them together have an end by this.
            end = threading.Timer(MAX_SECONDS, _cut, (connection.sock,))
            end.daemon = True
            end.start()
            try:
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                status = _post(connection, target, secret, delivery, body)
            finally:
                end.cancel()
    except ssl.SSLCertVerificationError as error:
        raise CallError(f"its certificate is not accepted: {error.verify_message}") from None
    except TimeoutError:
        raise CallError(f"no answer within {TIMEOUT:g} s") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CallError(str(error) or type(error).__name__) from None
    if not 200 <= status < 300:
        raise CallError(f"it answered {status}")


def _post(connection: http.client.HTTPConnection, target: Target, secret: str, delivery: str, body: bytes) -> int:
    connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
    headers = {
        "Host": target.authority,
        "User-Agent": "datarun",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Datarun-Delivery": delivery,
        "X-Datarun-Signature": sign(secret, body),
    }
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    with connection.getresponse() as response:
        with suppress(OSError, http.client.HTTPException):  # it has said that the call arrived
            response.read(MAX_ANSWER)
        return response.status


def _connect(target: Target) -> http.client.HTTPConnection:
    """A connection to an address of the host that is allowed; its TLS is of the host's name, and still to begin."""
    connection = http.client.HTTPConnection(target.host, target.port)
    refused: OSError | None = None
    for family, where in _addresses(target):
        connection.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(TIMEOUT)
            connection.sock.connect(where)
            if target.secure:
                connection.sock = ssl.create_default_context().wrap_socket(
                    connection.sock, server_hostname=target.host, do_handshake_on_connect=False
                )
            return connection
        except OSError as error:
            connection.close()
            refused = error
    assert refused is not None
    raise refused


def _addresses(target: Target) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Where the host is, one address a family; CallError where none is allowed. The only place that resolves names."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise CallError(f"its name has no address: {error}") from None
    places: dict[socket.AddressFamily, tuple[str, int]] = {}
    bad = ""
    for family, _, _, _, where in found:
        address = ipaddress.ip_address(str(where[0]).partition("%")[0])
        if allowed(address):
            places.setdefault(family, (str(address), target.port))
        else:
            bad = f"its address {address} is {_kind(address)}"
    if not places:
        raise CallError(bad or "its name has no address")
    return list(places.items())


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):  # it ended at this moment
        # Not SSLSocket's own: it takes the TLS away from under the thread that reads.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _literal(host: str) -> Address | None:
    """The address that a host is already, in any spelling (2130706433, 0x7f.1); None for a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")  # by RFC 6761, whatever a resolver says
    with suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0])
    with suppress(OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def _meant(address: Address) -> list[Address]:
    """What an address leads to: an IPv6 one may stand for an IPv4 one, or be routed to it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    return [address, address.sixtofour] if address.sixtofour else [address]


def _is_public(address: Address) -> bool:
    """is_global, without what it lets through: multicast, and IPv6's reserved and old site-local networks."""
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)


def _kind(address: Address) -> str:
    return "a loopback address" if _meant(address)[-1].is_loopback else "not a public address"

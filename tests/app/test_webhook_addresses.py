"""Where a webhook may be, and that a call goes to the address that was looked at."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runapp import webhooks
from runapp.webhooks import CallError
from tests.receiver import receiver

SECRET = "sixteen letters or more"
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
def allow(settings):
    settings.WEBHOOK_ALLOW = LOOPBACK


class Names(dict[str, list[list[str]]]):
    """Host -> what each look for it finds, the last one for ever. looked: the hosts that were looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: list[str] = []


@pytest.fixture
def names(monkeypatch):
    table = Names()
    real = socket.getaddrinfo

    def getaddrinfo(host, port, **more):
        table.looked.append(host)
        if host not in table:
            return real(host, port, **more)
        found = table[host].pop(0) if len(table[host]) > 1 else table[host][0]
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [(kind, socket.SOCK_STREAM, 6, "", (where, port)) for kind, where in zip(kinds, found, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


def send(url: str) -> None:
    webhooks.send(url, SECRET, "id", b"{}")


@contextmanager
def raw_server(serve):
    """The URL of a server that hands its one client to serve."""

    def run():
        client, _ = server.accept()
        with client, suppress(OSError):
            serve(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join(90)
        assert not thread.is_alive()


def talk(client: socket.socket, piece: bytes, pause: float) -> int:
    """Send the piece again and again, up to a minute; returns how many bytes went out until nobody took more."""
    sent, end = 0, time.monotonic() + 60
    with suppress(OSError):
        while time.monotonic() < end:
            client.sendall(piece)
            sent += len(piece)
            time.sleep(pause)
    return sent


def test_it_works(allow):
    with receiver() as there:
        send(there.url())
    [got] = there.got
    assert got.path == "/hook?a=b"
    assert got.headers["Host"] == f"127.0.0.1:{there.port}"
    assert got.body == b"{}"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed(address):
    assert webhooks.allowed(ipaddress.ip_address(address))


BAD = [
    *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001::1", "100::1"),
]


@pytest.mark.parametrize("address", BAD)
def test_other_addresses_are_not(address):
    assert not webhooks.allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", BAD)
def test_a_url_with_one_is_refused(address):
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match="address"):
        webhooks.parse(f"https://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0x7f.1", "017700000001", "127.0.0.1."),
        *("localhost", "LOCALHOST", "a.localhost", "localhost.", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]"),
        "[fe80::1%25eth0]",
    ],
)
def test_a_url_with_one_in_another_spelling_is_refused(host):
    with pytest.raises(ValueError, match="address"):
        webhooks.parse(f"http://{host}:8080/")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "example.org",
            "/hook",
            "ftp://example.org/",
            "file:///etc/passwd",
            "http://",
            "https:///hook",
            "http:///",
        ),
        *("http://example.org:0/", "http://example.org:99999/", "http://example.org:x/", "http://[::1/", "http://[x]/"),
        *("http://user:pass@example.org/", "http://user@example.org/", "http://127.0.0.1@example.org/"),
        *("http://exa mple.org/", "http://example.org/\r\nX: y", "http://example.org/ü", "http://ex\0ample.org/"),
        *("http://example.org\\@127.0.0.1/", "gopher://example.org/", "https://" + "a" * 500),
    ],
    ids=repr,
)
def test_what_is_no_url_of_a_receiver_is_refused(url):
    with pytest.raises(ValueError, match=r"."):
        webhooks.parse(url)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://Example.org", "example.org", "/"),
        ("https://example.org:443/a?b=c#d", "example.org", "/a?b=c"),
        ("http://example.org:443/%20", "example.org:443", "/%20"),
        ("http://[2606:4700:4700::1111]/", "[2606:4700:4700::1111]", "/"),
        ("http://8.8.8.8:8080", "8.8.8.8:8080", "/"),
    ],
)
def test_the_parts_of_a_url(url, authority, path):
    target = webhooks.parse(url)
    assert (target.authority, target.path) == (authority, path)


def test_a_name_that_leads_to_a_loopback_address_is_not_called(names):
    with receiver() as there:
        for address in ("127.0.0.1", "::ffff:127.0.0.1", "::1"):
            names["inside.example"] = [[address]]
            with pytest.raises(CallError, match="loopback"):
                send(there.url("inside.example"))
    assert there.got == []


def test_a_name_is_resolved_once_and_called_there(names, allow, settings):
    """What a second look would find is never asked: no DNS rebinding between the look and the connection."""
    settings.WEBHOOK_ALLOW = [ipaddress.ip_network("127.0.0.1/32")]
    with receiver() as there:
        names["rebind.example"] = [["127.0.0.1"], ["127.0.0.2"]]
        send(there.url("rebind.example"))
        [got] = there.got
        assert got.headers["Host"] == f"rebind.example:{there.port}"
        assert names.looked == ["rebind.example"]
        with pytest.raises(CallError, match=r"127\.0\.0\.2"):
            send(there.url("rebind.example"))
    assert len(there.got) == 1


def test_of_several_addresses_the_allowed_one_is_called(names, allow):
    with receiver() as there:
        names["both.example"] = [["10.1.2.3", "127.0.0.1"]]
        send(there.url("both.example"))
    assert len(there.got) == 1


def test_a_name_without_an_address(names):
    with pytest.raises(CallError, match="no address"):
        send("http://nowhere.invalid/")


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_2xx_is_an_arrival(allow, status):
    with receiver() as there:
        there.status = status
        send(there.url())


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304, 400, 404, 410, 429, 500, 503])
def test_any_other_is_none_and_no_redirect_is_followed(allow, status):
    with receiver() as there, receiver() as elsewhere:
        there.status, there.headers = status, {"Location": elsewhere.url()}
        with pytest.raises(CallError, match=f"answered {status}"):
            send(there.url())
    assert len(there.got) == 1
    assert elsewhere.got == []


def test_nobody_listens(allow):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(CallError, match="refused"):
        send(f"http://127.0.0.1:{port}/")


def test_a_receiver_that_says_nothing_is_left_after_its_time(allow, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(CallError, match="no answer"):
        send(f"http://127.0.0.1:{server.getsockname()[1]}/")


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["byte by byte", "100 Continue for ever"])
def test_a_receiver_that_drips_is_left_after_its_time(allow, monkeypatch, head):
    """Each byte comes in time, all of them together never."""
    monkeypatch.setattr(webhooks, "MAX_SECONDS", 0.5)
    with raw_server(lambda client: talk(client, head or b"x", 0.01)) as url:
        began = time.monotonic()
        with pytest.raises(CallError):
            send(url)
        assert time.monotonic() - began < 30


def test_a_large_answer_is_not_read_to_its_end(allow, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_SECONDS", 30)
    sent = []

    def answer(client):
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
        sent.append(talk(client, bytes(1 << 16), 0))

    with raw_server(answer) as url:
        send(url)
    assert sent[0] < 20 << 20  # what the system keeps for a reader who does not read is among it


def test_what_is_no_http_is_no_arrival(allow):
    def answer(client):
        client.recv(1 << 16)
        client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with raw_server(answer) as url, pytest.raises(CallError):
        send(url)


# --- TLS


def certificate(folder, name: str, common: x509.GeneralName) -> str:
    """A self-signed certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([common]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(path)


@pytest.fixture
def secure(tmp_path, monkeypatch, names, allow):
    """A receiver with TLS whose certificate, which is trusted, is for safe.example; and the names it is asked for."""
    path = certificate(tmp_path, "safe", x509.DNSName("safe.example"))
    monkeypatch.setenv("SSL_CERT_FILE", path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, of: asked.append(name)
    names["safe.example"] = names["other.example"] = [["127.0.0.1"]]
    with receiver(context) as there:
        yield there, asked


def test_tls_is_of_the_name_and_not_of_the_address(secure):
    there, asked = secure
    send(there.url("safe.example", "https"))
    [got] = there.got
    assert asked == ["safe.example"]
    assert got.headers["Host"] == f"safe.example:{there.port}"


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_a_certificate_of_another_name_is_refused(secure, host):
    there, _ = secure
    with pytest.raises(CallError, match="certificate is not accepted"):
        send(there.url(host, "https"))
    assert there.got == []


def test_a_certificate_that_nobody_vouches_for_is_refused(secure, monkeypatch):
    there, _ = secure
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(CallError, match="certificate is not accepted"):
        send(there.url("safe.example", "https"))
    assert there.got == []


def test_a_host_that_begins_no_tls_is_left_after_its_time(allow, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(CallError):
        send(f"https://127.0.0.1:{server.getsockname()[1]}/")

"""A service with a certificate of its own: who is served, what ends the start, and who gives way."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from certificates import Certificate, make_certificate, openssl
from command_line import MakeEnv, put, reid, reid_serve, run
from live_server import crop, enroll, serve, wait_until
from raw_requests import is_closed
from service.cli.connections import BoundedConnection
from service.cli.handshakes import Handshake
from service.cli.tls import require_certificate
from service.errors import BadSettings
from service.settings import Settings

Connect = Callable[[httpx.Client], socket.socket]


class EightConnections(BoundedConnection):
    """A connection of a process that has eight, and much time."""

    max_connections = 8
    head_s = 600.0


class FewHandshakes(Handshake):
    """A handshake of such a process."""

    kind = EightConnections


class HastyConnection(BoundedConnection):
    """A connection whose client has little time."""

    head_s = 0.5


class HastyHandshake(Handshake):
    """A handshake of such a connection."""

    kind = HastyConnection


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open connections without TLS; all are closed at the end."""
    with contextlib.ExitStack() as opened:
        yield lambda client: opened.enter_context(
            socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)
        )


def test_a_server_with_a_certificate_says_https_and_answers_a_client_that_trusts_it(
    make_env: MakeEnv, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reid_serve(make_env(tmp_path / "data") | certificate.settings(), tmp_path / "log") as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert f"{server.url}/gallery" in server.printed
        with httpx.Client(base_url=server.url, verify=certificate.for_clients()) as client:
            enroll(client, crop(1), identity_id="anna")
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            assert "check the certificate" in run(client, "models", "list").stderr
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
            assert "anna" in run(client, "search", put(tmp_path / "a.jpg", crop(1))).stdout
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http"))


def test_a_key_that_others_can_read_is_warned_of(certificate: Certificate, tmp_path: Path) -> None:
    key = put(tmp_path / "key", certificate.key.read_bytes())
    for mode, num_warnings in ((0o640, 0), (0o644, 1)):
        key.chmod(mode)
        with capture_logs() as lines:
            require_certificate(Settings(tls_cert=certificate.cert, tls_key=key))
        assert [f"chmod o-r {key}" in line["event"] for line in lines] == [True] * num_warnings


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> dict[str, tuple[Path, Path]]:
    """Certificates with keys that cannot be used, by the reason that is given."""
    folder = tmp_path_factory.mktemp("bad")
    expired = make_certificate(folder, days=-1)
    cert, key = certificate.cert, certificate.key
    encrypted, rsa = folder / "encrypted", folder / "rsa"
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted)
    openssl("genpkey", "-algorithm", "rsa", "-out", rsa)
    return {
        "CERT: .*absent: no such file": (folder / "absent", key),
        "KEY: .*absent: no such file": (cert, folder / "absent"),
        "KEY: .*: is a directory": (cert, folder),
        "CERT: .*holds no certificate in PEM": (key, key),
        "KEY: .*no private key in PEM": (cert, cert),
        "KEY: .*is encrypted, .*openssl pkey": (cert, encrypted),
        "KEY: .*is not the key of .*comes first": (cert, expired.key),
        "KEY: .*rsa is not the key of": (cert, rsa),
        "CERT: no client would take .*: certificate has expired": (expired.cert, expired.key),
    }


def test_a_certificate_that_cannot_be_used_is_told_with_the_reason(bad: dict[str, tuple[Path, Path]]) -> None:
    for reason, (cert, key) in bad.items():
        with pytest.raises(BadSettings, match=f"^REID_TLS_{reason}") as told:
            require_certificate(Settings(tls_cert=cert, tls_key=key))
        assert "\n" not in str(told.value)


def test_half_of_the_settings_ends_the_start(
    make_env: MakeEnv, certificate: Certificate, tmp_path: Path
) -> None:
    env = make_env(tmp_path / "data") | {"REID_TLS_CERT": str(certificate.cert)}
    done = reid("serve", "--port", "0", env=env)
    assert done.returncode == 1
    assert "REID_TLS_CERT is set and REID_TLS_KEY is not" in done.stderr
    assert "starting" not in done.stderr


def test_handshakes_give_way_as_idle_connections_do(
    settings: Settings, certificate: Certificate, connect: Connect
) -> None:
    with serve(settings, protocol=FewHandshakes, certificate=certificate) as client:
        opened = [connect(client) for _ in range(40)]
        opened[0].close()
        with contextlib.suppress(ConnectionError):
            opened[-1].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        livez = f"{client.base_url}/livez"  # by a new connection, because that of the client gives way too
        assert httpx.get(livez, verify=certificate.for_clients()).status_code == 200
        wait_until(lambda: sum(map(is_closed, opened[1:])) >= 31)
        assert enroll(client, crop(1))


def test_a_handshake_has_no_more_time_than_a_head(
    settings: Settings, certificate: Certificate, connect: Connect
) -> None:
    with serve(settings, protocol=HastyHandshake, certificate=certificate) as client:
        wait_until(partial(is_closed, connect(client)))

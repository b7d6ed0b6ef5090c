"""The certificate of the server and its key, tried before anything is loaded."""

import ssl
import stat
from contextlib import suppress
from pathlib import Path

import structlog

from service.errors import BadSettings
from service.settings import Settings

logger = structlog.get_logger(__name__)

OF_ANOTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says if the key belongs to another certificate; the last is for a key of another kind."""

NUM_ROUNDS = 4
"""More than a handshake has, of any version of TLS."""


def require_certificate(settings: Settings) -> None:
    """Check the certificate and the key of the settings, if there are any, by a handshake with itself.

    Raises:
        BadSettings: only one of the two is set, a file cannot be read, the key is encrypted or belongs to
            another certificate, or no client would take the certificate at present.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        named, absent = ("CERT", "KEY") if key is None else ("KEY", "CERT")
        raise BadSettings(f"REID_TLS_{named} is set and REID_TLS_{absent} is not; set both, or neither")
    _require_readable("REID_TLS_CERT", cert)
    _require_readable("REID_TLS_KEY", key)
    client = _client_side(cert)
    _greet(_server_side(cert, key), client, cert)
    if key.stat().st_mode & stat.S_IROTH:
        logger.warning(f"REID_TLS_KEY: all users of this machine can read the key; chmod o-r {key}")


def _require_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BadSettings(f"{name}: {path}: {(error.strerror or str(error)).lower()}") from error


def _client_side(cert: Path) -> ssl.SSLContext:
    """Return the TLS of a client that trusts this certificate alone."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cert)
    except ssl.SSLError as error:
        raise BadSettings(f"REID_TLS_CERT: {cert} holds no certificate in PEM") from error
    return client


def _server_side(cert: Path, key: Path) -> ssl.SSLContext:
    def refuse_password() -> str:
        raise BadSettings(
            f"REID_TLS_KEY: {key} is encrypted, and nobody could type the password at each start; "
            f"write the key without one: openssl pkey -in {key} -out NEW"
        )

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(cert, key, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason in OF_ANOTHER_KEY:
            hint = "in REID_TLS_CERT the certificate of the service comes first, and its chain after it"
            raise BadSettings(f"REID_TLS_KEY: {key} is not the key of {cert}; {hint}") from error
        reason = error.reason.replace("_", " ").lower() if error.reason else "no private key in PEM"
        raise BadSettings(f"REID_TLS_KEY: {key} cannot be used: {reason}") from error
    return server


def _greet(server: ssl.SSLContext, client: ssl.SSLContext, cert: Path) -> None:
    """Let a client and a server shake hands in memory, so that OpenSSL judges the certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(NUM_ROUNDS):
            for side in sides:
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise BadSettings(f"REID_TLS_CERT: no client would take {cert}: {error.verify_message}") from error

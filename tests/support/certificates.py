"""A certificate authority of the tests, and certificates for this machine, made by openssl."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Certificate(NamedTuple):
    """Files of a certificate, of its key, and of the authority that clients have to trust."""

    cert: Path
    key: Path
    authority: Path

    def settings(self) -> dict[str, str]:
        """Return the settings of a service that has the certificate."""
        return {"REID_TLS_CERT": str(self.cert), "REID_TLS_KEY": str(self.key)}

    def for_clients(self) -> ssl.SSLContext:
        """Return the TLS of a client that trusts the authority."""
        return ssl.create_default_context(cafile=self.authority)


def openssl(*arguments: str | Path) -> None:
    """Run openssl; skip the test where there is none."""
    program = shutil.which("openssl") or pytest.skip("there is no openssl on this machine")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def make_certificate(folder: Path, days: int = 2) -> Certificate:
    """Make an authority and a certificate for localhost; with days below 0 the certificate has expired."""
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    cert, key, request, names = (folder / f"server.{kind}" for kind in ("pem", "key", "csr", "names"))
    subject = ("-subj", "/CN=reid tests")
    openssl("req", "-x509", *NEW_KEY, *subject, "-days", "2", "-keyout", authority_key, "-out", authority)
    openssl("req", *NEW_KEY, *subject, "-keyout", key, "-out", request)
    names.write_text(NAMES)
    signed = ("-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-extfile", names)
    openssl("x509", "-req", "-in", request, *signed, "-days", str(days), "-out", cert)
    return Certificate(cert, key, authority)

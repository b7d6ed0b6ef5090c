"""nginx as the machine has it, in front of a service, with the configuration that docs/proxies.md shows."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from certificates import Certificate
from live_server import find_free_port, wait_until

NO_NGINX = "there is no nginx on this machine to put in front of the service"
HOW_TO_GET_NGINX = "apt-get install -y nginx"
PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
BLOCK = re.compile(r"^```nginx\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOCATION = re.compile(r"^ +location .*?^ +}\n", re.MULTILINE | re.DOTALL)
MAIN = """
daemon off;
master_process off;
pid {folder}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""
OTHERS = {
    "/taken-off/": ("proxy_pass http://127.0.0.1:8000;", "proxy_pass http://127.0.0.1:8000/;"),
    "/small/": ("client_max_body_size 4100m;", ""),
}
"""Further locations, each with the one line that differs from the documented location."""


def find_nginx() -> str:
    """Return the path of the machine's nginx; skip the test where there is none."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin") or pytest.skip(NO_NGINX)


@contextmanager
def nginx(folder: Path, service: str, certificate: Certificate) -> Iterator[str]:
    """Run nginx in front of the service at a URL, and give the URL of nginx without a path."""
    port, log = find_free_port(), folder / "error.log"
    (folder / "nginx.conf").write_text(
        MAIN.format(folder=folder, servers=_configure(service, certificate, port))
    )
    command: list[str | Path] = [find_nginx(), "-p", folder, "-c", folder / "nginx.conf", "-e", log]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, log.read_text()
            yield f"https://localhost:{port}"
        finally:
            process.terminate()


def _configure(service: str, certificate: Certificate, port: int) -> str:
    """Return the documented server for this machine, with the other locations beside the documented one."""
    (server,) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (location,) = LOCATION.findall(server)
    for path, (line, other) in OTHERS.items():
        changes = {line: other, "/reid/": path, "/reid;": f"{path.rstrip('/')};"}
        server = server.replace(location, location + _replace(location, changes))
    return _replace(
        server,
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "gallery.example.org": "localhost",
            "/etc/ssl/gallery.pem": str(certificate.cert),
            "/etc/ssl/gallery.key": str(certificate.key),
            "http://127.0.0.1:8000": service,
        },
    )


def _replace(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{PAGE.name} does not have {old}"
        text = text.replace(old, new)
    return text


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False

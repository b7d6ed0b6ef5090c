"""The service on a real port, in a thread of the test's own process, and the crops to send to it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from fastapi.dependencies import models
from PIL import Image
from starlette.types import ASGIApp

from certificates import Certificate
from model.architectures import build_network
from model.card import Card
from model.checkpoint import save_checkpoint
from service.api.admission import LIMITS, Limit
from service.api.app import create_app
from service.cli.connections import BoundedConnection
from service.cli.handshakes import Handshake, TlsConfig
from service.settings import Settings
from service.store.clock import Clock

TIMEOUT_S = 180


def make_checkpoint(path: Path, seed: int = 0, architecture: str = "tiny") -> str:
    """Save a small network with random weights and return its version."""
    torch.manual_seed(seed)
    network = build_network(architecture, height=64, width=32, num_identities=4)
    size = int(network.embedding_size)
    card = Card(architecture=architecture, height=64, width=32, embedding_size=size, num_identities=4)
    return save_checkpoint(path, network, card)


def person(seed: int, variant: int = 0) -> Image.Image:
    """Draw a person: coloured blocks by ``seed``, with a little noise by ``variant``."""
    blocks_HWC = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    big_HWC = np.asarray(Image.fromarray(blocks_HWC).resize((64, 128), Image.Resampling.NEAREST), np.int16)
    noise_HWC = np.random.default_rng(variant).integers(-9, 10, big_HWC.shape, dtype=np.int16)
    return Image.fromarray((big_HWC + (noise_HWC if variant else 0)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return an image as bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def crop(seed: int, variant: int = 0) -> bytes:
    """Return a drawn person as JPEG."""
    return encode(person(seed, variant), quality=95)


def images(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Return contents as the `images` of a multipart form."""
    return [("images", (f"{i}.jpg", content)) for i, content in enumerate(contents)]


def as_it_is(app: ASGIApp) -> ASGIApp:
    """Return an app as it is."""
    return app


@contextmanager
def serve(
    settings: Settings,
    wait: bool = True,
    wrap: Callable[[ASGIApp], ASGIApp] = as_it_is,
    clock: Clock | None = None,
    limits: Mapping[str, Limit] = LIMITS,
    protocol: type[BoundedConnection] | type[Handshake] = BoundedConnection,
    certificate: Certificate | None = None,
) -> Iterator[httpx.Client]:
    """Serve the real app on a free port of this machine; `wrap` may put something in front of the app.

    A certificate goes with the protocol `Handshake`.
    """
    app = wrap(create_app(settings, clock=clock, limits=limits))
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "proxy_headers": False}
    if certificate is None:
        config = uvicorn.Config(app, http=protocol, **quiet)
    else:
        cert, key = certificate.cert, certificate.key
        config = TlsConfig(app, http=protocol, ssl_certfile=cert, ssl_keyfile=key, **quiet)
    server = uvicorn.Server(config)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))  # asyncio leaves Nagle on where the protocol is not named
        listener.listen()  # a busy machine may connect before the server has begun
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        scheme = "http" if certificate is None else "https"
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=TIMEOUT_S, verify=False) as client:  # noqa: S501
                if wait:
                    wait_until_ready(client)
                yield client
        finally:
            server.should_exit = True
            thread.join()
            forget_apps()


def forget_apps() -> None:
    """Clear what FastAPI caches of callables, which keeps every app of a process alive.

    A server makes one app in its life. These tests make hundreds, whose objects would cost more and more time
    of Python's garbage collection.
    """
    for cached in vars(models).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


def wait_until_ready(client: httpx.Client) -> None:
    """Wait until the server has a network and an index."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while (answer := client.get("/readyz")).status_code != httpx.codes.OK:
        assert "could not start" not in answer.text, answer.text
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.05)


def enroll(client: httpx.Client, *contents: bytes, **fields: Any) -> list[dict[str, Any]]:
    """Enrol crops and return the items."""
    answer = client.post("/gallery", files=images(*contents), data=fields)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def search(client: httpx.Client, *contents: bytes, **fields: Any) -> dict[str, Any]:
    """Search and return the answer."""
    answer = client.post("/search", files=images(*contents), data=fields)
    assert answer.status_code == httpx.codes.OK, answer.text
    body: dict[str, Any] = answer.json()
    return body


def upload_model(client: httpx.Client, path: Path) -> httpx.Response:
    """Register a checkpoint."""
    return client.post("/models", files={"checkpoint": (path.name, path.read_bytes())})


def model_states(client: httpx.Client) -> dict[str, str]:
    """Return the state of each model version."""
    return {known["version"]: known["state"] for known in client.get("/models").json()["models"]}


def activate(client: httpx.Client, version: str, **how: Any) -> dict[str, Any]:
    """Activate a version and return its job when it has ended."""
    answer = client.post(f"/models/{version}/activate", json=how)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return wait_for_job(client, answer.headers["location"])


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until a function returns something true."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def wait_for_job(client: httpx.Client, location: str) -> dict[str, Any]:
    """Wait until a job has ended and return it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        job: dict[str, Any] = client.get(location).json()
        if job["state"] not in ("queued", "running"):
            return job
        assert time.monotonic() < deadline_s, job
        time.sleep(0.02)


def find_free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

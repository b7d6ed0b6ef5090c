"""The server of `reid serve`, in one process or in several.

The port is bound before the app and torch are imported, which takes seconds. So a port in use or a wrong
setting is reported at once.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from ipaddress import ip_address
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from service import metrics
from service.cli.connections import ANSWER_S, BoundedConnection
from service.cli.handshakes import Handshake, TlsConfig
from service.cli.logs import log_to_terminal
from service.cli.options import keep_private
from service.cli.terminal import err, print_line
from service.cli.tls import require_certificate
from service.cli.worker_metrics import shared_metrics
from service.errors import BadSettings, ServiceError
from service.settings import Settings, read_settings, unknown_variables

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.serving.generation import Generation

logger = structlog.get_logger(__name__)

BACKLOG = 2048
"""Connections that wait for a worker, as uvicorn's default."""

HUNG_S = 30
"""A worker that does not answer its parent for so many seconds is replaced."""

ALWAYS_THERE = {("auto", "auto"), ("auto", "fp32"), ("cpu", "auto"), ("cpu", "fp32")}
"""Devices and precisions that every machine has."""

REACHABLE_AT = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound here


def launch(chosen: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit status.

    Args:
        chosen: REID_* variables that replace those of the environment.
    """
    os.environ.update(chosen)
    try:
        settings = read_settings()
        keep_private()
        log_to_terminal(settings.log_format, settings.log_level)
        _warn_of_unknown_variables()
        require_certificate(settings)
        _require_device(settings)
        listener = _listen(settings)
        with listener:
            _require_hosts(settings, listener)
            _require_key(settings, listener)
            return _run(settings, listener) if settings.workers == 1 else _run_workers(settings, listener)
    except ServiceError as error:
        print_line(err, f"cannot serve: {error}")
        return 1


def _warn_of_unknown_variables() -> None:
    """Name each REID_* variable that no setting has: a misspelt REID_RETENTION_DAYS would erase nothing."""
    for name in unknown_variables():
        like = get_close_matches(name, [f"REID_{field.upper()}" for field in Settings.model_fields], 1)
        meant = f"; did you mean {like[0]}?" if like else ""
        logger.warning(f"{name} is not a setting and has no effect{meant}")


def _require_device(settings: Settings) -> None:
    """Check a device or precision that the operator has named; `auto` and `cpu` need no import of torch.

    Raises:
        BadSettings: this machine does not have it.
    """
    if (settings.device, settings.precision) not in ALWAYS_THERE:
        from service.serving.embedding import require_device

        require_device(settings)


def _run(settings: Settings, listener: socket.socket) -> int:
    url = _url(settings, listener)
    failures: list[str] = []

    def on_ready(generation: "Generation") -> None:
        if not server.should_exit:
            _print_unless_json(settings, _first_steps(url, generation))

    def on_failed(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    _say_starting(settings, url)
    from service.api.app import create_app

    app = create_app(settings, on_ready, on_failed)
    server = uvicorn.Server(_configure(app, settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _do_nothing)  # uvicorn shuts down first, and then raises the signal again
    server.run(sockets=[listener])
    if failures:
        return 1
    _say_stopped(settings)
    return 0


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Let a signal pass."""


def _run_workers(settings: Settings, listener: socket.socket) -> int:
    """Serve with several processes on one port, and return the exit status.

    A worker that dies is replaced. A worker that cannot start ends all workers.
    """
    url = _url(settings, listener)
    _say_starting(settings, url)
    listener.listen(BACKLOG)  # clients wait from now on, until a worker is ready and takes them
    supervisor = Workers(_configure("service.cli.serve:make_worker_app", settings), [listener])
    with shared_metrics(settings.cache_dir):
        supervisor.run()
    _say_stopped(settings)
    return 1 if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0


def _configure(app: "FastAPI | str", settings: Settings) -> uvicorn.Config:
    """Configure uvicorn for an app, or for the name of a function that makes one in each worker."""
    has_tls = settings.tls_cert is not None
    make_config = TlsConfig if has_tls else uvicorn.Config
    return make_config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        http=Handshake if has_tls else BoundedConnection,
        ws="none",  # which would take a connection out of the limits of BoundedConnection
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the app reads them, and by default trusts nobody; uvicorn trusts 127.0.0.1
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + ANSWER_S,
        timeout_worker_healthcheck=HUNG_S,
    )


class Workers(Multiprocess):
    """The processes that serve one port, and their parent."""

    def keep_subprocess_alive(self) -> None:
        """Replace each worker that has died or hangs, and say so in the log."""
        with self._forgetting() as gone:
            super().keep_subprocess_alive()
        for worker in gone:
            logger.error("a worker has died, another one takes its place", pid=worker.pid)

    def handle_signals(self) -> None:
        """Do what a signal asks for, which may replace workers."""
        with self._forgetting():
            super().handle_signals()

    def terminate_all(self) -> None:
        """End the workers; the port is closed first, so that no client connects and waits in vain."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    @contextmanager
    def _forgetting(self) -> Iterator[list[Process]]:
        """Return the workers that are replaced in this context, once it ends, and drop their gauges."""
        before, gone = list(self.processes), list[Process]()
        yield gone
        gone += [worker for worker in before if worker not in self.processes]
        for worker in gone:
            metrics.forget_worker(worker.pid)


def make_worker_app() -> "FastAPI":
    """Build the app of one worker process; the settings are read from the environment of its parent."""
    from service.api.app import create_app

    def on_ready(generation: "Generation") -> None:
        served = f"network {generation.version} on {generation.embedder.runtime}"
        ready = f"worker {os.getpid()} ready: {served}, {len(generation.index)} items in the gallery"
        _print_unless_json(settings, ready)

    def on_failed(_reason: str) -> None:
        os._exit(STARTUP_FAILURE)  # tells the parent not to start the worker again

    settings = read_settings()
    log_to_terminal(settings.log_format, settings.log_level)
    Thread(target=_end_with_parent, daemon=True).start()
    return create_app(settings, on_ready, on_failed, loads_first=True)


def _end_with_parent() -> None:
    """Shut this worker down as SIGTERM does when its parent process has ended."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(settings: Settings) -> socket.socket:
    """Bind the port without listening yet.

    Raises:
        ServiceError: the port cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named here. Otherwise every answer is 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}, port {settings.port}"
        hint = "choose another with --port or REID_PORT"
        raise ServiceError(f"{where}: {(error.strerror or str(error)).lower()}; {hint}") from error
    return listener


def _require_hosts(settings: Settings, listener: socket.socket) -> None:
    """Check that the hosts are named if the server listens on every address, which names none.

    Raises:
        BadSettings: no host is named.
    """
    if ip_address(listener.getsockname()[0]).is_unspecified and not settings.allowed_hosts:
        raise BadSettings(
            f"REID_HOST is {settings.host!r}, which is every address of this machine; name the hosts that "
            "clients write, as in REID_ALLOWED_HOSTS=gallery.example.org,192.168.1.7"
        )


def _require_key(settings: Settings, listener: socket.socket) -> None:
    """Check that the gallery has a key if other machines can reach the server.

    Raises:
        BadSettings: it has none. As long as the database does not answer, this cannot be told; `Access`
            refuses other machines as long as there is no key.
    """
    if ip_address(listener.getsockname()[0]).is_loopback or settings.allow_open:
        return
    from service.upkeep.opening import has_no_key

    if has_no_key(settings):
        raise BadSettings(
            f"other machines reach the gallery at REID_HOST {settings.host!r}, and no key was made yet; run "
            "`reid keys create --role admin --name NAME` first, or set REID_ALLOW_OPEN=true to answer all"
        )


def _say_starting(settings: Settings, url: str) -> None:
    data_dir = settings.data_dir.absolute()
    if settings.log_format == "json":
        logger.info("starting", url=url, data_dir=str(data_dir), workers=settings.workers)
        return
    workers = f"{settings.workers} workers " if settings.workers > 1 else ""
    print_line(err, f"starting {workers}on {url}, with the data in {data_dir}; stop with Ctrl-C")


def _say_stopped(settings: Settings) -> None:
    if settings.log_format == "json":
        logger.info("stopped")
    else:
        print_line(err, "stopped")


def _print_unless_json(settings: Settings, text: str) -> None:
    """Print what people read at the start; programs find the same in the log event `ready`."""
    if settings.log_format == "console":
        print_line(err, text)


def _url(settings: Settings, listener: socket.socket) -> str:
    """Return the URL at which this machine reaches the server."""
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{_reachable(settings.host)}:{listener.getsockname()[1]}"


def _reachable(host: str) -> str:
    """Return the host of a URL at which this machine reaches a server that listens on `host`.

    >>> _reachable("0.0.0.0"), _reachable("::"), _reachable("cameras.local")
    ('127.0.0.1', '[::1]', 'cameras.local')
    """
    reachable = REACHABLE_AT.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


def _first_steps(url: str, generation: "Generation") -> str:
    served = f"network {generation.version} on {generation.embedder.runtime}"
    return f"""
ready: {served}, {len(generation.index)} items in the gallery

  curl -F images=@crop.jpg -F identity_id=anna -F camera_id=door {url}/gallery
  curl -F images=@another.jpg {url}/search
  python3 -m webbrowser {url}/
"""

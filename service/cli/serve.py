"""What `reid serve` and `reid check` do: build the service, run it or look at it, and tell the terminal.

The port is taken first, and the app with all of torch imported only then, so that a second server on the same
port or a wrong setting is told at once.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.errors import ServiceError
from service.settings import Settings, read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.serving.serving import Generation, Serving
    from service.upkeep.backup import Contents

GRACE_S = 30
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - said, not listened to
PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper("%H:%M:%S", utc=False),
]


def launch(chosen: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM, and give the exit code; `chosen` are REID_* variables that go first."""
    os.environ.update(chosen)
    try:
        settings = read_settings()
        listener = _listen(settings)
        with listener:
            _log_to_terminal()
            return _run(settings, listener) if settings.workers == 1 else _run_workers(settings, listener)
    except ServiceError as error:
        _say(f"cannot serve: {error}")
        return 1


def run_check(chosen: Mapping[str, str], *, num_recomputed: int, repair: bool) -> int:
    """Check a gallery, print what is found, and give the exit code."""
    os.environ.update(chosen)
    _log_to_terminal()
    from service.store.failures import told
    from service.upkeep.check import check

    try:
        report = check(_open_gallery(), num_recomputed=num_recomputed, repair=repair)
    except (ServiceError, SQLAlchemyError, OSError) as error:
        _say(f"cannot check: {told(error) or error}")
        return 1
    for finding in report.findings:
        _say(f"{finding.problem}: {finding.detail}{' - repaired' if finding.repaired else ''}")
    if report.num_young:
        _say(
            f"{report.num_young} crops are younger than ten minutes and belong to nothing yet; "
            "their requests may be under way"
        )
    _say(
        f"{report.num_items} items checked, {report.num_recomputed} of them embedded anew: "
        + ("all is well" if report.is_clean else f"{len(report.findings)} findings")
    )
    return 0 if report.is_clean else 1


def run_backup(chosen: Mapping[str, str], path: Path, *, replace: bool, allow_missing: bool) -> int:
    """Back a gallery up to a file, and give the exit code."""
    os.environ.update(chosen)
    _log_to_terminal()
    from service.store.failures import told
    from service.upkeep.backup import backup, open_gallery

    try:
        serving = open_gallery(read_settings())
        contents = backup(serving, path, replace=replace, allow_missing=allow_missing)
    except (ServiceError, SQLAlchemyError, OSError) as error:
        _say(f"no backup: {told(error) or error}")
        return 1
    missing = f", {contents.num_missing} crops missing" if contents.num_missing else ""
    _say(f"{_counted(contents)} in {path}{missing}")
    return 0


def run_restore(chosen: Mapping[str, str], path: Path, receipts: Sequence[Path]) -> int:
    """Restore a gallery from a file, and give the exit code."""
    os.environ.update(chosen)
    _log_to_terminal()
    from service.store.failures import told
    from service.upkeep.backup import read_receipts, restore

    try:
        erased = [one for file in receipts for one in read_receipts(file.read_text(), str(file))]
        contents = restore(read_settings(), path, erased)
    except (ServiceError, SQLAlchemyError, OSError) as error:
        _say(f"not restored: {told(error) or error}")
        return 1
    without = f"; {contents.num_erased} items erased by receipts" if receipts else ""
    _say(f"{_counted(contents)} restored{without}")
    return 0


def _counted(contents: "Contents") -> str:
    return f"{contents.num_items} items, {contents.num_crops} crops, {contents.num_models} networks"


def _open_gallery() -> "Serving":
    """Open the gallery of the settings, which may be in service elsewhere.

    Raises:
        ServiceError: the settings are wrong, or there is none.
    """
    from service.serving.serving import Serving
    from service.store.database import make_engine, make_sessions, migrate, require_file

    settings = read_settings()
    require_file(settings.database_url)
    engine = make_engine(settings.database_url)
    migrate(engine)
    return Serving(settings, make_sessions(engine))


def _run(settings: Settings, listener: socket.socket) -> int:
    url = _url(settings.host, listener.getsockname()[1])
    failures: list[str] = []

    def on_ready(generation: "Generation") -> None:
        if not server.should_exit:
            _say(_first_steps(url, generation))

    def on_failed(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    _say(f"starting on {url}, with the data in {settings.data_dir.absolute()}; stop with Ctrl-C")
    from service.api.app import create_app

    app = create_app(settings, on_ready, on_failed)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=GRACE_S
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):  # uvicorn has finished everything by then, and only passes it on
        server.run(sockets=[listener])
    if failures:
        return 1
    _say("stopped")
    return 0


def _run_workers(settings: Settings, listener: socket.socket) -> int:
    """Serve by several processes on one port; one that dies is replaced, one that cannot start ends all."""
    url = _url(settings.host, listener.getsockname()[1])
    data = f"the data in {settings.data_dir.absolute()}"
    _say(f"starting {settings.workers} workers on {url}, with {data}; stop with Ctrl-C")
    config = uvicorn.Config(
        "service.cli.serve:make_worker_app",
        factory=True,
        workers=settings.workers,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        timeout_worker_healthcheck=GRACE_S,
    )
    supervisor = Multiprocess(config, [listener])
    supervisor.run()
    _say("stopped")
    return 1 if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0


def make_worker_app() -> "FastAPI":
    """Build the app of one worker process, by the environment that its parent has set."""
    from service.api.app import create_app

    def on_ready(generation: "Generation") -> None:
        served = f"network {generation.version} on {generation.embedder.runtime}"
        _say(f"worker {os.getpid()} ready: {served}, {len(generation.index)} items in the gallery")

    def on_failed(_reason: str) -> None:
        os._exit(STARTUP_FAILURE)  # tells the parent that another try would fail alike

    _log_to_terminal()
    Thread(target=_end_with_parent, daemon=True).start()
    return create_app(read_settings(), on_ready, on_failed)


def _end_with_parent() -> None:
    """Stop this worker, gently, when the process that started it is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(settings: Settings) -> socket.socket:
    """Take the port without listening yet.

    Raises:
        ServiceError: if it cannot be taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer is 40 ms late.
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


def _url(host: str, port: int) -> str:
    """Give the URL at which this machine reaches a server that listens on `host`.

    >>> _url("0.0.0.0", 8000), _url("::", 8000), _url("cameras.local", 80)
    ('http://127.0.0.1:8000', 'http://[::1]:8000', 'http://cameras.local:80')
    """
    reachable = ANYWHERE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _first_steps(url: str, generation: "Generation") -> str:
    served = f"network {generation.version} on {generation.embedder.runtime}"
    return f"""
ready: {served}, {len(generation.index)} items in the gallery

  curl -F images=@crop.jpg -F identity_id=anna -F camera_id=door {url}/gallery
  curl -F images=@another.jpg {url}/search
  python3 -m webbrowser {url}/
"""


def _log_to_terminal() -> None:
    """Let our events and the warnings of the libraries appear alike, on stderr."""
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[*PROCESSORS, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _say(words: str) -> None:
    print(words, flush=True)

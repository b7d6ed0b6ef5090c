"""Upload a checkpoint to a service, evaluate and activate it there; or download the active checkpoint."""

import ipaddress
import os
import socket
import time
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from model.checkpoint import checkpoint_version
from model.files import write_atomically

POLL_S = 0.5


class DeployError(Exception):
    """The service refuses the network or cannot be reached; the message gives the reason."""


def deploy(path: str | Path, url: str, *, is_activated: bool = True, require_better: bool = False) -> str:
    """Register a checkpoint with a service, evaluate it on the gallery, and put it in service on request.

    If the evaluation fails, for example because the gallery has too few labels, the reason is printed and
    the activation goes on. With ``require_better`` the service then refuses the activation.

    Args:
        path: the checkpoint.
        url: of the service.
        is_activated: put the network in service and wait for the swap.
        require_better: activate only if the network is no worse on the gallery's identities.

    Returns:
        The version of the network.

    Raises:
        DeployError: the service cannot be reached, refuses the file or the swap, or the swap fails.
    """
    path = Path(path)
    try:
        with _open_http(url) as client, path.open("rb") as file:
            answer = client.post("/models", files={"checkpoint": (path.name, file)}, timeout=600)
            version: str = _checked(answer)["version"]
            print(f"network {version} is registered at {url}")
            _evaluate(client, version)
            if is_activated:
                answer = client.post(f"/models/{version}/activate", json={"require_better": require_better})
                job = _wait(client, _checked(answer)["id"], "re-embedding the gallery")
                if job["state"] != "succeeded":
                    raise DeployError(f"the swap {_ending(job)}; the old network stays in service")
                print(f"network {version} is in service at {url}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeployError(f"the service at {url} cannot be reached: {error}") from error
    return version


def check_connection(url: str) -> None:
    """Check, before a long run, that a connection to a service could be opened; nothing is sent.

    Raises:
        DeployError: the URL or a proxy of the environment cannot be used.
    """
    _open_http(url).close()


def _open_http(url: str) -> httpx.Client:
    """Open a connection pool; this machine itself is reached without a proxy, because no proxy reaches it.

    Raises:
        DeployError: the URL or a proxy of the environment cannot be used.
    """
    try:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
            raise DeployError(f"{url!r} is not the URL of a service: write it as http://host:8000")
        return httpx.Client(
            base_url=url,
            timeout=60,
            trust_env=not is_loopback(parsed.host),
            verify=httpx.create_ssl_context() if parsed.scheme == "https" else True,  # by SSL_CERT_FILE
            headers=_key_header(),
        )
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        reason = str(error).partition(". ")[0]
        raise DeployError(f"no connection to {url}: the URL or a proxy cannot be used: {reason}") from error


def is_loopback(host: str) -> bool:
    """Tell whether the host of a URL is this machine.

    >>> [is_loopback(host) for host in ("127.0.0.1", "127.1", "::1", "localhost", "10.0.0.1")]
    [True, True, True, True, False]
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name)).is_loopback  # short forms, such as 127.1
    except OSError:
        return False


def _key_header() -> dict[str, str]:
    """Return the header that sends the key of REID_API_KEY, if the variable is set."""
    key = os.environ.get("REID_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _evaluate(client: httpx.Client, version: str) -> None:
    """Evaluate a version on the gallery of the service, and print the result."""
    answer = client.post(f"/models/{version}/evaluate")
    job = _wait(client, _checked(answer)["id"], "evaluating the network on the gallery")
    if job["state"] != "succeeded":
        print(f"not evaluated on the gallery: the job {_ending(job)}")
        return
    result = job["result"]
    for name, metrics in result["versions"].items():
        kind = "new" if name == version else "in service"
        print(f"{name} ({kind}): rank-1 {metrics['rank1']:.2f}, mAP {metrics['mAP']:.2f}")
    for name, gain in result["difference"].items():
        print(f"{name} {gain['value']:+.2f}, 95 % interval {gain['low']:+.2f} to {gain['high']:+.2f}")


def download_active(url: str, path: str | Path) -> str:
    """Write the checkpoint that is in service at ``url`` to a file and return its version.

    Raises:
        DeployError: the service cannot be reached, answers with an error, or sends another checkpoint.
        OSError: the file cannot be written.
    """
    try:
        with _open_http(url) as client:
            version: str = _checked(client.get("/models/active"))["version"]
            answer = client.get(f"/models/{version}/file", timeout=600)
            if not answer.is_success:
                _checked(answer)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeployError(f"the service at {url} cannot be reached: {error}") from error
    write_atomically(path, answer.content)
    if (found := checkpoint_version(path)) != version:
        raise DeployError(f"the service at {url} sent {found} for the network {version}: try again")
    return version


def _wait(client: httpx.Client, job_id: str, what: str) -> dict[str, Any]:
    """Show a progress bar until a job has ended, and return the job."""
    with Progress() as progress:
        task = progress.add_task(what, total=None)
        while True:
            body = _checked(client.get(f"/jobs/{job_id}"))
            progress.update(task, completed=body["done"], total=body["total"])
            if body["state"] not in ("queued", "running"):
                return body
            time.sleep(POLL_S)


def _ending(job: dict[str, Any]) -> str:
    return f"{job['state']}: {job.get('error') or 'no reason given'}"


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        body: dict[str, Any] = answer.json()
        return body
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    raise DeployError(f"the service answered {answer.status_code}: {detail}")

"""Put a checkpoint in service: upload, activate, wait for the swap with a bar; or fetch the active one."""

import time
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from model.checkpoint import checkpoint_version
from model.files import write_atomically

POLL_S = 0.5


class DeployError(Exception):
    """The service refused the network or the swap failed; the message is what the service said."""


def deploy(path: Path, url: str) -> str:
    """Swap a checkpoint into the service at ``url`` and return its version once it answers searches.

    Raises:
        DeployError: the service cannot be reached, refuses the file, or the job fails.
    """
    try:
        with httpx.Client(base_url=url, timeout=60) as client, path.open("rb") as file:
            answer = client.post("/models", files={"checkpoint": (path.name, file)}, timeout=600)
            version: str = _checked(answer)["version"]
            answer = client.post(f"/models/{version}/activate")
            _checked(answer)
            _wait(client, answer.headers["Location"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeployError(f"the service at {url} cannot be reached: {error}") from error
    print(f"network {version} is in service at {url}")
    return version


def download_active(url: str, path: Path) -> str:
    """Write the checkpoint that is in service at ``url`` to a file and return its version.

    Raises:
        DeployError: the service cannot be reached, refuses, or sends something else.
        OSError: the file cannot be written.
    """
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
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


def _wait(client: httpx.Client, job: str) -> None:
    with Progress() as progress:
        task = progress.add_task("re-embedding the gallery", total=None)
        while True:
            body = _checked(client.get(job))
            progress.update(task, completed=body["done"], total=body["total"])
            if body["state"] == "succeeded":
                return
            if body["state"] in ("failed", "cancelled"):
                reason = body.get("error") or "no reason given"
                raise DeployError(f"the swap {body['state']}: {reason}; the old network serves on")
            time.sleep(POLL_S)


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        body: dict[str, Any] = answer.json()
        return body
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    raise DeployError(f"the service answered {answer.status_code}: {detail}")

"""`reid models` against a real server."""

import re
from pathlib import Path

import httpx

from command_line import Server, put, reid
from live_server import crop


def test_a_model_is_registered_activated_and_listed(server: Server, another_checkpoint: Path) -> None:
    version = reid("models", "register", another_checkpoint, "--url", server.url).stdout.strip()
    done = reid("models", "activate", version, "--url", server.url)
    assert (done.returncode, done.stdout.strip()) == (0, f"{version} is in service")
    listed = reid("models", "list", "--url", server.url).stdout
    assert re.search(rf"{version}\s+│ active", listed), listed
    refused = reid("models", "activate", "0" * 12, "--url", server.url)
    assert refused.returncode == 1
    assert "0" * 12 in refused.stderr


def test_a_model_is_judged_beside_the_active_one(
    server: Server, another_checkpoint: Path, tmp_path: Path
) -> None:
    version = reid("models", "register", another_checkpoint, "--url", server.url).stdout.strip()
    for camera in ("left", "right"):
        for person in range(80, 86):
            path = put(tmp_path / f"{person}.jpg", crop(person, len(camera)))
            with path.open("rb") as file:
                form = {"identity_id": f"judged {person}", "camera_id": camera}
                httpx.post(f"{server.url}/gallery", files={"images": file}, data=form).raise_for_status()
    done = reid("models", "evaluate", version, "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{version}[^\n]*│ 100\.00", done.stdout), done.stdout
    assert re.search(r"mAP: [+-]\d+\.\d\d, 95 % interval", done.stdout), done.stdout
    refused = reid("models", "evaluate", "0" * 12, "--url", server.url)
    assert (refused.returncode, "0" * 12 in refused.stderr) == (1, True)

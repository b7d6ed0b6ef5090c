"""Make a small gallery to keep, so that later versions prove that they open it.

``PYTHONPATH=tests:tests/support python tests/keep_gallery.py FOLDER``, where the folder is a new one in
`tests/data/galleries`. Run it with the code of the last commit before a change of the schema. The folder gets
the data folder, without what can be made anew, and `answers.json`, which has what that version answers.
Everybody on the crops is drawn.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from live_server import crop, enroll, images, make_checkpoint, serve
from service.settings import Settings

MADE_ANEW = ("cache", "snapshots", "*-reserve", ".*")
NOON = "2026-03-01T12:00:00Z"
QUESTIONS = ("/gallery", "/identities", "/identities/anna/timeline", "/operations", "/erasures", "/models")


def fill(client: httpx.Client) -> None:
    """Enrol, correct and erase people, so that every kind of row is there."""
    for seed in range(4):
        time = f"2026-03-01T08:0{seed}:00Z"
        enroll(client, crop(seed), identity_id="anna", camera_id="door", captured_at=time)
    enroll(client, crop(5), identity_id="bert", camera_id="hall", track_id="7", captured_at=NOON)
    enroll(client, crop(6), identity_id="bert's twin", camera_id="hall")
    last, wrong = enroll(client, crop(7), crop(9), identity_id="anna")
    enroll(client, crop(8), identity_id="carl")
    for method, path, body in (
        ("PATCH", "/identities/anna", {"name": "Anna Özil", "attributes": {"coat": "red"}}),
        ("POST", "/identities/bert/merge", {"source_ids": ["bert's twin"]}),
        ("POST", "/identities/anna/split", {"item_ids": [last["id"]], "identity_id": "not anna"}),
        ("POST", "/identities/anna/reject", {"item_ids": [wrong["id"]]}),
        ("DELETE", "/identities/carl?mode=erase", None),
    ):
        client.request(method, path, json=body).raise_for_status()


def answers_of(client: httpx.Client) -> dict[str, Any]:
    """Return what a service answers to the same questions in each version, without request ids."""
    answers = {}
    for path in QUESTIONS:
        answer = client.get(path)
        answers[path] = answer.raise_for_status().json()
    for seed in (2, 5):
        answer = client.post("/search", files=images(crop(seed, 1)))
        answers[f"search {seed}"] = answer.raise_for_status().json()
    for answer in answers.values():
        for varying in ("request_id", "took_ms"):
            answer.pop(varying, None)
    return answers


def main() -> None:
    """Make the gallery."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        make_checkpoint(Path(folder) / "tiny.safetensors")
        settings = Settings(data_dir=data_dir, default_checkpoint=Path(folder) / "tiny.safetensors")
        with serve(settings) as client:
            fill(client)
            answers = answers_of(client)
        shutil.copytree(data_dir, target, ignore=shutil.ignore_patterns(*MADE_ANEW))
    (target / "answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

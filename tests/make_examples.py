"""Write the examples of the OpenAPI document: what a service answers about the drawn people.

python tests/make_examples.py

Run it when an answer has got another field. The examples of bodies are those that are sent here.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import structlog

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/support")]

import draw_people  # noqa: E402
from live_server import serve, wait_for_job  # noqa: E402
from service.api.examples import FILE  # noqa: E402
from service.settings import Settings  # noqa: E402

LABELS = {
    "identity_id": "person-3",
    "camera_id": "door",
    "captured_at": "2026-03-01T08:41:00Z",
    "track_id": "17",
}
FILTERS = {"camera_id": ["door", "hall"], "captured_after": "2026-03-01T00:00:00Z"}
BODIES: dict[str, dict[str, Any]] = {
    "Body_post_gallery": {"images": ["crop.jpg"], **LABELS},
    "Body_post_search": {"images": ["query.jpg"], "top_k": 5, **FILTERS},
    "Batch": {"queries": [{"query_identity_id": "person-3", "top_k": 1, "filter": {"camera_id": ["hall"]}}]},
    "Body_post_batch": {"images": ["query.jpg"], "queries": '{"queries": [{"images": [0], "top_k": 5}]}'},
    "Body_post_verify": {"images": ["query.jpg"], "identity_id": "person-3"},
    "Body_post_model": {"checkpoint": "network.safetensors"},
    "DeletionOrder": {"filter": FILTERS, "dry_run": True},
    "Correction": {"camera_id": "hall", "captured_at": "2026-03-01T08:42:00Z"},
    "NewIdentity": {"id": "bob", "name": "Bob", "attributes": {"role": "visitor", "height": "178"}},
    "IdentityDescription": {"name": "Carla", "attributes": {"role": "staff"}},
    "MergeOrder": {"source_ids": ["person-4"]},
    "SplitOrder": {"item_ids": ["01a223dfd8e1392648b2457d182535c2"], "identity_id": "person-9"},
    "RejectOrder": {"item_ids": ["01a223dfd8e1392648b2457d182535c2"]},
    "Confirmation": {"as_of": "2026-11-28T20:41:02.126181Z"},
    "Activation": {"strategy": "backfill", "require_better": True},
    "SignInOrder": {"key": "reid_0123456789ab_" + "0" * 64},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "ConfirmationAnswer": {
        "request_id": "01a223dfdc22b9da5900271a39465317",
        "as_of": "2026-11-28T20:41:02.126181Z",
        "num_items": 1234,
    },
    "Status": {"status": "ready", "model_version": "11f96843b565", "runtime": "openvino-bf16"},
}
"""Answers that need an expiry that waits, or that tell of the machine."""

MOST = 2
"""Entries of a list that an example shows."""


def main() -> None:
    """Ask a service of its own for each answer, and write the file."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder) / "people"
        draw_people.main(people)
        with serve(Settings(data_dir=Path(folder) / "data")) as client:
            examples = BODIES | {name: _short(answer) for name, answer in _ask(client, people).items()}
    examples |= ANSWERS
    FILE.write_text(json.dumps(examples, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _ask(client: httpx.Client, people: Path) -> dict[str, Any]:
    """Return an answer of each kind, by the name of its schema."""
    with (people / "gallery.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            image = (people / row.pop("path")).read_bytes()
            enrolled = client.post("/gallery", files={"images": ("crop.jpg", image)}, data=row)
    query = {"images": ("query.jpg", (people / "query.jpg").read_bytes())}
    (item, *_) = client.get("/gallery", params={"identity_id": "person-3"}).json()["items"]
    version = item["model_version"]
    job = client.post("/gallery", files=query, headers={"Prefer": "respond-async"})
    done = wait_for_job(client, job.headers["location"])
    merged = client.post("/identities/person-3/merge", json=BODIES["MergeOrder"])
    client.patch("/identities/person-3", json=BODIES["IdentityDescription"])
    answers = {
        "EnrolmentAnswer": enrolled,
        "ItemsAnswer": client.get("/gallery", params={"limit": 1}),
        "DeletionAnswer": client.post("/gallery/delete", json=BODIES["DeletionOrder"]),
        "ItemAnswer": client.get(f"/gallery/{item['id']}"),
        "CorrectionAnswer": client.patch(f"/gallery/{item['id']}", json=BODIES["Correction"]),
        "SearchAnswer": client.post("/search", files=query, data={"top_k": 1}),
        "BatchAnswer": client.post("/search/batch", json=BODIES["Batch"]),
        "VerifyAnswer": client.post("/verify", files=query, data={"identity_id": "person-3"}),
        "IdentityAnswer": client.get("/identities/person-3"),
        "IdentitiesAnswer": client.get("/identities", params={"limit": 1}),
        "SuggestionsAnswer": client.get("/identities/suggestions", params={"min_score": 0.3, "limit": 1}),
        "TimelineAnswer": client.get("/identities/person-3/timeline", params={"limit": 1}),
        "OperationAnswer": merged,
        "OperationsAnswer": client.get("/operations", params={"limit": 1}),
        "CamerasAnswer": client.get("/cameras"),
        "StatsAnswer": client.get("/stats", params={"days": 1}),
        "RetentionAnswer": client.get("/retention"),
        "ModelsAnswer": client.get("/models"),
        "ModelAnswer": client.get(f"/models/{version}"),
        "JobsAnswer": client.get("/jobs", params={"limit": 1}),
        "SessionAnswer": client.get("/session"),
        "Versions": client.get("/version"),
        "ErasureAnswer": client.delete("/identities/person-5", params={"mode": "erase"}),
        "ErasuresAnswer": client.get("/erasures", params={"limit": 1}),
        "AuditAnswer": client.get("/audit", params={"limit": 1}),
        "Problem": client.get("/identities/nobody"),
    }
    return {name: answer.json() for name, answer in answers.items()} | {"JobAnswer": done}


def _short(value: Any) -> Any:
    """Return an answer with the first entries of its lists, and without the weights of a network's card."""
    if isinstance(value, dict):
        return {name: {} if name == "card" else _short(one) for name, one in value.items()}
    return [_short(one) for one in value[:MOST]] if isinstance(value, list) else value


if __name__ == "__main__":
    main()

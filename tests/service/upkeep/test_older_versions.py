"""A gallery that an older version has written is opened, and answers as that version answered."""

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from keep_gallery import answers_of
from live_server import crop, enroll, search, serve
from service.settings import Settings
from service.store.database import known_schemas, make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check

KEPT = Path(__file__).parents[2] / "data" / "galleries"
GALLERIES = sorted(path.name for path in KEPT.iterdir())
FIRST_KEPT = "0007"
"""The oldest schema of which a gallery was kept."""


def assert_holds(answer: Any, kept: Any, place: str = "") -> None:
    """Check that an answer has all that an older one has; a newer version may answer more."""
    if isinstance(kept, dict):
        assert kept.keys() <= answer.keys(), place
        for name, value in kept.items():
            assert_holds(answer[name], value, f"{place}.{name}")
    elif isinstance(kept, list):
        assert len(answer) == len(kept), place
        for number, value in enumerate(kept):
            assert_holds(answer[number], value, f"{place}[{number}]")
    elif isinstance(kept, float):
        assert answer == pytest.approx(kept, abs=0.01), place  # the arithmetic of another machine
    else:
        assert answer == kept, place


def in_new_words(kept: dict[str, Any]) -> dict[str, Any]:
    """Return the kept answers, in which searches have the names of today: see the changelog."""
    for question, answer in kept.items():
        if question.startswith("search") and answer.pop("thresholds", None):
            for match in answer["matches"]:
                match["probability_even_prior"] = match.pop("probability")
    return kept


def lacking(schemas: Sequence[str]) -> list[str]:
    """The replaced schemas from `FIRST_KEPT` on of which no gallery was kept; the newest comes first."""
    return [older for _, older in pairwise(schemas) if older >= FIRST_KEPT and older not in GALLERIES]


def test_a_gallery_of_each_replaced_schema_is_kept() -> None:
    assert lacking(known_schemas()) == []
    assert lacking(["9999", "9998", FIRST_KEPT, "0006"]) == ["9998"]
    assert set(GALLERIES) <= set(known_schemas())


@pytest.mark.parametrize("name", GALLERIES)
def test_a_kept_gallery_answers_as_it_did_and_goes_on(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(KEPT / name, data_dir)
    kept = json.loads((data_dir / "answers.json").read_text())
    (data_dir / "answers.json").unlink()
    settings = Settings(data_dir=data_dir)
    with serve(settings) as client:
        assert_holds(answers_of(client), in_new_words(kept))
        enroll(client, crop(20), identity_id="dora")
        assert search(client, crop(20))["matches"][0]["identity_id"] == "dora"
        (merged,) = (one for one in client.get("/operations").json()["operations"] if one["kind"] == "merge")
        assert client.post(f"/operations/{merged['operation_id']}/undo").is_success
        assert client.get("/identities/bert's twin").is_success
    engine = make_engine(settings.database_url)
    assert check(Store(settings, make_sessions(engine))).is_clean
    engine.dispose()

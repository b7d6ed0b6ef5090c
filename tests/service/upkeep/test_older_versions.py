"""A gallery that an older version has written is opened, and answers as that version answered."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from keep_gallery import answers_of
from live_server import crop, enroll, search, serve
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check

KEPT = Path(__file__).parents[2] / "data" / "galleries"
GALLERIES = sorted(path.name for path in KEPT.iterdir())


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


@pytest.mark.parametrize("name", GALLERIES)
def test_a_kept_gallery_answers_as_it_did_and_goes_on(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(KEPT / name, data_dir)
    kept = json.loads((data_dir / "answers.json").read_text())
    (data_dir / "answers.json").unlink()
    settings = Settings(data_dir=data_dir)
    with serve(settings) as client:
        assert_holds(answers_of(client), kept)
        enroll(client, crop(20), identity_id="dora")
        assert search(client, crop(20))["matches"][0]["identity_id"] == "dora"
        (merged,) = (one for one in client.get("/operations").json()["operations"] if one["kind"] == "merge")
        assert client.post(f"/operations/{merged['operation_id']}/undo").is_success
        assert client.get("/identities/bert's twin").is_success
    engine = make_engine(settings.database_url)
    assert check(Store(settings, make_sessions(engine))).is_clean
    engine.dispose()

"""Rates of strangers in cards, in the tables of evaluate.py, and beside a checkpoint by calibrate.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from live_server import crop
from model.checkpoint import checkpoint_version
from model.strangers import StrangerRates
from model.verification import Verification
from training import calibrate
from training.data.datasets import ReidDataset, Sample
from training.engine.evaluation import EmbeddedSplits, evaluate_pairs, verify_test

NUM_PEOPLE, NUM_CROPS = 52, 4


def draw(num_people: int) -> tuple[EmbeddedSplits, ReidDataset]:
    """Return random embeddings of a test split: four queries and four gallery crops of each person."""
    samples = [
        Sample(Path(f"{pid}-{shot}"), pid, shot) for pid in range(1, num_people + 1) for shot in range(8)
    ]
    query = tuple(sample for sample in samples if sample.camid < NUM_CROPS)
    gallery = tuple(sample for sample in samples if sample.camid >= NUM_CROPS)
    rng = np.random.default_rng(0)
    people = rng.normal(size=(num_people + 1, 16))
    rows = [
        (people[[one.pid for one in split]] + rng.normal(size=(len(split), 16))).astype(np.float32)
        for split in (query, gallery)
    ]
    return EmbeddedSplits(*rows), ReidDataset("drawn", Path(), (), query, gallery)


def test_a_card_and_a_table_have_rates_if_there_are_enough_people() -> None:
    enough, few = draw(NUM_PEOPLE), draw(12)
    known = verify_test(*enough)
    Verification.model_validate(known)
    assert known["strangers"]["data"] == known["data"] == "drawn, its test split"
    assert known["strangers"]["num_pairs"] == NUM_PEOPLE * NUM_CROPS * (NUM_PEOPLE - 1)
    assert evaluate_pairs(*enough)["strangers"] == known["strangers"]["rates"]
    Verification.model_validate(verify_test(*few))
    assert "strangers" not in verify_test(*few)
    assert "strangers" not in evaluate_pairs(*few)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 52 people for training, with four drawn crops each."""
    folder = tmp_path_factory.mktemp("people")
    lines = ["path,identity_id,camera_id,split"]
    for person in range(NUM_PEOPLE):
        for shot in range(NUM_CROPS):
            name = f"{person}-{shot}.jpg"
            (folder / name).write_bytes(crop(person, shot))
            lines.append(f"{name},p{person},c{shot % 2},train")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


def test_rates_of_the_training_people_are_written_beside_the_checkpoint(
    people: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, out = checkpoint_version(tiny_checkpoint), tmp_path / "verification.json"
    thresholds = {"thresholds": [{"fmr": 1e-3, "cosine": 0.6, "hit_rate": 0.8}], "data": "made up"}
    before = {version: thresholds | {"calibration": {"slope": 1.0, "intercept": 0.0}}, "other": {}}
    out.write_text(json.dumps(before))
    calibrate.main(tiny_checkpoint, [f"csv:{people}"], out, split="train", device="torch-cpu")
    after = json.loads(out.read_text())
    counted = after[version].pop("strangers")
    assert after == before
    assert counted["data"].endswith("its train split")
    rates = StrangerRates.from_dict(counted)
    num_pairs = NUM_PEOPLE * NUM_CROPS * (NUM_PEOPLE - 1)
    assert (rates.num_identities, rates.num_pairs) == (NUM_PEOPLE, num_pairs)
    assert f"{NUM_PEOPLE} people, {num_pairs:,} pairs" in capsys.readouterr().out


def test_a_file_without_the_version_and_too_few_people_are_refused(
    people: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verification.json"
    out.write_text("{}")
    with pytest.raises(SystemExit, match="has no entry for"):
        calibrate.main(tiny_checkpoint, [f"csv:{people}"], out, split="train", device="torch-cpu")
    out.write_text(json.dumps({checkpoint_version(tiny_checkpoint): {}}))
    few = people.with_name("few.csv")
    few.write_text("\n".join(people.read_text().splitlines()[:13]) + "\n")
    with pytest.raises(SystemExit, match="too few people or crops"):
        calibrate.main(tiny_checkpoint, [f"csv:{few}"], out, split="train", device="torch-cpu")

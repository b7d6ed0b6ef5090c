"""POST /verify and what its decisions say, from cards and from what is shipped."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from interrupted import Process
from live_server import crop, enroll, images, serve, upload_model
from model.card import Card
from model.checkpoint import DEFAULT_CHECKPOINT, checkpoint_version, load_checkpoint, save_checkpoint
from model.embedder import Embedder
from service.gallery.enrolment import enroll as enroll_crops
from service.gallery.metadata import ItemMetadata
from service.search.verify import verify_identity
from service.serving.thresholds import SHIPPED, thresholds_of
from service.settings import Settings
from service.versions.activation import mark_active
from service.versions.registry import register

VERIFICATION: dict[str, Any] = {
    "thresholds": [
        {"fmr": 1e-1, "cosine": 0.2, "hit_rate": 1.0},
        {"fmr": 1e-2, "cosine": 0.4, "hit_rate": 0.9},
        {"fmr": 1e-3, "cosine": 0.6, "hit_rate": 0.8},
        {"fmr": 1e-4, "cosine": 0.9, "hit_rate": 0.5},
    ],
    "calibration": {"slope": 10.0, "intercept": -5.0},
    "data": "made up",
}


def others(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("other_images", (f"{i}.jpg", content)) for i, content in enumerate(contents)]


def embed(path: Path, *contents: bytes) -> NDArray[np.float32]:
    """Return the mean embedding of crops, of length 1."""
    embedder = Embedder(load_checkpoint(path), cache_dir=path.parent / "cache")
    mean_D = embedder.embed([Image.open(BytesIO(content)).convert("RGB") for content in contents]).mean(
        axis=0
    )
    return np.asarray(mean_D / np.linalg.norm(mean_D), np.float32)


def test_two_sets_of_crops_are_as_alike_as_their_mean_embeddings(
    shared_client: httpx.Client, tiny_checkpoint: Path
) -> None:
    one, other = [crop(1), crop(1, 1)], [crop(2), crop(2, 1), crop(2, 2)]
    answer = shared_client.post("/verify", files=[*images(*one), *others(*other)]).json()
    wanted = float(embed(tiny_checkpoint, *one) @ embed(tiny_checkpoint, *other))
    assert answer["score"] == pytest.approx(wanted, abs=0.01)
    assert answer["model_version"] == checkpoint_version(tiny_checkpoint)
    same = shared_client.post("/verify", files=[*images(crop(1)), *others(crop(1))]).json()
    assert same["score"] == pytest.approx(1, abs=1e-3)


def test_an_identity_is_compared_by_the_mean_of_its_items(
    shared_client: httpx.Client, tiny_checkpoint: Path
) -> None:
    enroll(shared_client, crop(5), crop(5, 1), crop(6), identity_id="anna")
    form = {"identity_id": "anna"}
    answer = shared_client.post("/verify", files=images(crop(5, 2)), data=form).json()
    wanted = float(embed(tiny_checkpoint, crop(5, 2)) @ embed(tiny_checkpoint, crop(5), crop(5, 1), crop(6)))
    assert answer["score"] == pytest.approx(wanted, abs=0.01)


def test_during_a_compatible_swap_an_identity_is_compared_by_the_embeddings_of_the_gallery(
    settings: Settings, tiny_checkpoint: Path, another_checkpoint: Path
) -> None:
    process = Process(settings)
    enroll_crops(process, [BytesIO(crop(5))], [ItemMetadata(identity_id="anna")])
    with another_checkpoint.open("rb") as file:
        version = register(process.store, file)[0].row.version
    with process.store.change() as change:
        mark_active(change, version, process.current().version)
    verified = verify_identity(process, [BytesIO(crop(5))], "anna")
    assert verified.model_version == version
    wanted = float(embed(another_checkpoint, crop(5)) @ embed(tiny_checkpoint, crop(5)))
    assert verified.score == pytest.approx(wanted, abs=0.01)
    process.end()


def test_what_cannot_be_compared_is_refused(shared_client: httpx.Client) -> None:
    enroll(shared_client, crop(7), identity_id="otto")
    shared_client.post("/identities", json={"id": "empty"})

    def status(files: Any, **form: str) -> tuple[int, str]:
        answer = shared_client.post("/verify", files=files, data=form)
        return answer.status_code, answer.json()["code"]

    assert status(images(crop(1))) == (422, "invalid_request")
    assert status([*images(crop(1)), *others(crop(2))], identity_id="otto") == (422, "invalid_request")
    assert status(images(crop(1)), identity_id="nobody") == (404, "identity_not_found")
    assert status(images(crop(1)), identity_id="empty") == (422, "invalid_request")
    assert status(images(*[crop(1)] * 17), identity_id="otto") == (422, "invalid_request")
    assert status([*images(crop(1)), *others(*[crop(1)] * 17)]) == (422, "invalid_request")
    torn = shared_client.post("/verify", files=[*images(crop(1)), *others(crop(2), b"no image")])
    assert (torn.status_code, torn.json()["position"]) == (415, 1)
    assert torn.json()["detail"].startswith("other_images[1]: ")
    assert torn.json()["errors"][0]["loc"] == ["body", "other_images", 1]


@pytest.fixture(scope="module")
def calibrated(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with a card that has thresholds."""
    tiny = load_checkpoint(checkpoints / "tiny.safetensors")
    card = Card(**{**tiny.card.to_dict(), "verification": VERIFICATION})
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.safetensors"
    save_checkpoint(path, tiny.network, card)
    return path


def test_until_there_is_an_evaluation_decisions_are_those_of_the_card(
    settings: Settings, calibrated: Path
) -> None:
    with serve(settings.model_copy(update={"default_checkpoint": calibrated})) as client:
        alike = client.post("/verify", files=[*images(crop(3)), *others(crop(3))]).json()
        assert alike["thresholds"] == {"match": 0.6, "unsure": 0.4, "source": "card"}
        assert (alike["decision"], alike["score"]) == ("match", pytest.approx(1, abs=1e-3))
        chance = 1 / (1 + np.exp(5 - 10 * alike["score"]))
        assert alike["probability_even_prior"] == pytest.approx(chance, abs=1e-4)


def test_thresholds_lie_between_those_of_the_card_by_the_logarithm_of_the_rate() -> None:
    card = {"verification": VERIFICATION}
    halfway = thresholds_of("x", card, None, 10**-2.5)
    assert halfway.to_dict() == {"match": 0.5, "unsure": 0.3, "source": "card"}
    loosest = thresholds_of("x", card, None, 1e-1)
    assert (loosest.match, loosest.unsure) == (0.2, 0.2)
    assert [loosest.decide(score) for score in (0.2, 0.19)] == ["match", "unknown"]


def test_an_evaluation_on_too_few_pairs_for_the_rate_is_not_believed() -> None:
    card = {"verification": VERIFICATION}
    rows = [dict(row, cosine=row["cosine"] / 2) for row in VERIFICATION["thresholds"]]
    found = {"evaluated_at": "now", **VERIFICATION, "thresholds": rows}
    few, enough = ({**found, "num_different_pairs": num} for num in (9_999, 10_000))
    assert thresholds_of("x", card, few, 1e-3).source == "card"
    assert thresholds_of("x", card, enough, 1e-3).match == 0.3
    nothing = thresholds_of("x", {}, few, 1e-3)
    assert (nothing.source, nothing.decide(0.99), nothing.probability(0.99)) == ("none", None, None)
    assert nothing.evaluated_at == "now"


def test_the_checkpoint_that_ships_has_the_thresholds_of_its_model_card() -> None:
    version = checkpoint_version(DEFAULT_CHECKPOINT)
    shipped = json.loads(SHIPPED.read_text())[version]
    text = DEFAULT_CHECKPOINT.with_name("MODEL_CARD.md").read_text()
    for row in shipped["thresholds"]:
        missed = 100 * (1 - row["hit_rate"])
        rate = f"1e{np.log10(row['fmr']):.0f}"
        assert any(
            line.startswith(f"| {rate} | {row['cosine']:.3f} |") and f"| {missed:.1f} % |" in line
            for line in text.splitlines()
        ), row
    found = thresholds_of(version, {}, None, 1e-3)
    assert (found.match, found.unsure, found.source) == (0.476, 0.343, "card")
    same, different = found.probability(0.654), found.probability(0.084)  # the medians of its table
    assert same is not None
    assert different is not None
    assert same > 0.99 > 0.05 > different


@pytest.mark.parametrize("rate", [5e-5, 0.2])
def test_a_rate_that_cannot_be_had_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="target_fmr"):
        Settings(target_fmr=rate)


def test_a_network_of_a_card_with_thresholds_is_registered_with_them(
    shared_client: httpx.Client, calibrated: Path
) -> None:
    assert upload_model(shared_client, calibrated).json()["card"]["verification"] == VERIFICATION

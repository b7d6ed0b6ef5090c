"""Checkpoint files: saving and loading, and the error for every kind of bad file."""

import json
import math
import pickle
import re
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from model.architectures import build_network
from model.card import Card
from model.checkpoint import (
    DEFAULT_CHECKPOINT,
    MAX_CHECKPOINT_BYTES,
    checkpoint_version,
    load_checkpoint,
    read_card,
    save_checkpoint,
    save_foreign,
)
from model.errors import CheckpointError
from model.layers import ReidNetwork

ROW = {"fmr": 1e-2, "cosine": 0.4, "hit_rate": 0.9}
VERIFICATION: dict[str, Any] = {
    "thresholds": [ROW],
    "calibration": {"slope": 9.5, "intercept": -4},
    "data": "made up",
}
STRANGERS: dict[str, Any] = {
    "num_identities": 60,
    "num_pairs": 20_000,
    "rates": [{"rate": rate, "cosine": 0.4 - rate} for rate in (0.3, 0.1, 0.03)],
    "data": "made up",
}
FALLING = [{**row, "cosine": row["rate"]} for row in STRANGERS["rates"]]
CARD = Card(
    architecture="tiny",
    height=64,
    width=32,
    embedding_size=64,
    num_identities=4,
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
    recipe="tiny",
    dataset="generated",
    metrics={"rank1": 12.5},
    parent="0123456789ab",
    created="2026-01-02T03:04:05+00:00",
)

PROMISE = {
    "version": "0123456789ab",
    "rank1_cross": 90.5,
    "mAP_cross": 80,
    "rank1_old": 90.0,
    "mAP_old": 79.5,
}


def build() -> ReidNetwork:
    torch.manual_seed(0)
    return build_network("tiny", height=64, width=32, num_identities=4).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "network.safetensors", build(), CARD)
    return tmp_path / "network.safetensors"


def write(path: Path, card: object, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    content = save(tensors or build().state_dict(), metadata={"card": json.dumps(card)})
    path.write_bytes(content)
    return path


def test_a_saved_network_and_its_card_are_loaded(path: Path) -> None:
    loaded = load_checkpoint(path)
    images = torch.randn(3, 3, 64, 32)
    assert loaded.card == CARD
    assert loaded.preprocess.mean == (0.1, 0.2, 0.3)
    assert not loaded.network.training
    assert torch.equal(loaded.network(images), build()(images))


def test_the_version_is_the_hash_of_the_content(path: Path) -> None:
    version = load_checkpoint(path).version
    assert re.fullmatch("[0-9a-f]{12}", version)
    assert version == checkpoint_version(path) == save_checkpoint(path, build(), CARD)
    assert version != save_checkpoint(path, build(), replace(CARD, recipe="other"))


def test_half_precision_halves_the_file_and_loads_as_float32(path: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, build(), CARD, half=True)
    network = load_checkpoint(half).network
    assert half.stat().st_size < 0.6 * path.stat().st_size
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.neck.num_batches_tracked is not None
    assert network.neck.num_batches_tracked.dtype == torch.int64


def test_a_loaded_network_can_be_trained(path: Path) -> None:
    network = load_checkpoint(path).network.train()
    network(torch.randn(4, 3, 64, 32)).logits.sum().backward()
    assert network.classifier.weight.grad is not None
    assert network.neck.bias.grad is None


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"truncated|not a readable"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"state_dict": [1, 2, 3]}),
        b"<html>not found</html>" * 10,
        b"PK\x03\x04" + bytes(100),
        struct.pack("<Q", 20) + b"{" * 40,
        struct.pack("<Q", 6000) + b"[" * 6000,
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors"):
        load_checkpoint(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path(tmp_path / "exploded"),)  # type: ignore[return-value]

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_an_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_CHECKPOINT_BYTES + 1)  # sparse: takes no room
    with pytest.raises(CheckpointError, match=r"1,073,741,825 bytes; at most 1,073,741,824"):
        load_checkpoint(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet51"}, "no architecture 'resnet51'"),
        ({"architecture": ["tiny"]}, "architecture must be a valid string"),
        ({"height": 65}, "multiples of 16"),
        ({"height": 100_000}, "height must be less than or equal to 1024"),
        ({"height": True}, "height must be a valid integer"),
        ({"height": 0}, "height must be greater than or equal to 1"),
        ({"width": "32"}, "width must be a valid integer"),
        ({"width": 32.0}, "width must be a valid integer"),
        ({"num_identities": 0}, "num_identities must be at least 1"),
        ({"num_identities": 5}, r"classifier.weight is \(4, 64\), not \(5, 64\)"),
        ({"num_identities": 10**9}, "classifier.weight"),
        ({"num_identities": 10**30}, "num_identities must be less than or equal to"),
        ({"embedding_size": 128}, "says 128 dimensions, but tiny has 64"),
        ({"embedding_size": 10**30}, "embedding_size must be less than or equal to"),
        ({"channels": "bgr"}, "channels must be rgb, or bgr if it is foreign"),
        ({"verification": []}, "verification must be an object"),
        ({"verification": {**VERIFICATION, "data": 1}}, "verification.data must be a valid string"),
        ({"verification": {**VERIFICATION, "thresholds": []}}, "thresholds must have at least 1 item"),
        ({"verification": {**VERIFICATION, "thresholds": [ROW] * 101}}, "thresholds must have at most 100"),
        ({"verification": {**VERIFICATION, "thresholds": [ROW, ROW]}}, "no fmr twice"),
        ({"verification": {**VERIFICATION, "thresholds": [{**ROW, "fmr": 0}]}}, "thresholds.0.fmr must be"),
        ({"verification": {**VERIFICATION, "thresholds": [{**ROW, "cosine": math.nan}]}}, "0.cosine must be"),
        (
            {"verification": {**VERIFICATION, "thresholds": [ROW, {**ROW, "fmr": 0.1, "cosine": 0.9}]}},
            "thresholds that rise as fmr falls",
        ),
        (
            {"verification": {**VERIFICATION, "calibration": {"slope": 1.0}}},
            "calibration.intercept is missing",
        ),
        (
            {"verification": {**VERIFICATION, "calibration": {"slope": True, "intercept": 0}}},
            "slope must be a valid number",
        ),
        ({"verification": {**VERIFICATION, "strangers": {}}}, "strangers.num_identities is missing"),
        (
            {"verification": {**VERIFICATION, "strangers": {**STRANGERS, "rates": STRANGERS["rates"][:2]}}},
            "rates must have at least 3 items",
        ),
        (
            {"verification": {**VERIFICATION, "strangers": {**STRANGERS, "rates": FALLING}}},
            "cosines that never fall as rate falls",
        ),
        ({"height": 128}, "does not fit its card"),
        ({"architecture": "resnet50", "embedding_size": 2048}, "is missing.*and .* more"),
        ({"mean": [0.5, 0.5]}, "mean.2 is missing"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean must be three finite numbers"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean.2 must be a valid number"),
        ({"std": [1, 1, 0]}, "std must be three numbers above zero"),
        ({"std": 1}, "std must be a valid"),
        ({"metrics": [1]}, "metrics must be an object"),
        ({"metrics": {"rank1": "high"}}, "metrics.rank1 must be a valid number"),
        ({"surprise": 1}, "surprise is not a field of a card"),
        (
            {"parent": 3, "recipe": 3, "created": None, "dataset": []},
            "recipe .*; dataset .*; parent .* 1 more",
        ),
        ({"compatible_with": "0123456789ab"}, "compatible_with must be an object"),
        ({"compatible_with": {**PROMISE, "version": "0123456789AB"}}, "compatible_with.version must match"),
        (
            {"compatible_with": {**PROMISE, "rank1_cross": 101}},
            "rank1_cross must be less than or equal to 100",
        ),
        ({"compatible_with": {**PROMISE, "mAP_old": float("nan")}}, "compatible_with.mAP_old must be"),
        ({"compatible_with": {**PROMISE, "mAP_old": True}}, "compatible_with.mAP_old must be a valid number"),
        ({"compatible_with": {**PROMISE, "is_strict": 1}}, "is_strict must be a valid boolean"),
        ({"compatible_with": {**PROMISE, "surprise": 1}}, "compatible_with.surprise does not belong there"),
        ({"compatible_with": {"version": "0123456789ab"}}, "rank1_cross is missing; .* and 1 more"),
    ],
)
def test_a_wrong_card_is_refused_with_the_field_and_the_reason(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "network.safetensors", {**CARD.to_dict(), **change})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_promise_of_compatibility_is_saved_and_loaded(tmp_path: Path) -> None:
    for promise in (PROMISE, {**PROMISE, "is_strict": True}):
        save_checkpoint(tmp_path / "network.safetensors", build(), replace(CARD, compatible_with=promise))
        assert load_checkpoint(tmp_path / "network.safetensors").card.compatible_with == promise


@pytest.mark.parametrize("missing", ["architecture", "height", "embedding_size", "mean", "std"])
def test_a_field_that_a_card_lacks_is_named(tmp_path: Path, missing: str) -> None:
    card = {name: value for name, value in CARD.to_dict().items() if name != missing}
    with pytest.raises(CheckpointError, match=f"{missing} is missing"):
        load_checkpoint(write(tmp_path / "network.safetensors", card))


def test_an_old_card_without_the_newer_fields_is_read(tmp_path: Path) -> None:
    names = ("architecture", "height", "width", "embedding_size", "num_identities", "mean", "std")
    card = {name: CARD.to_dict()[name] for name in names}
    assert load_checkpoint(write(tmp_path / "network.safetensors", card)).card.feature == "bn"


def test_a_huge_card_is_refused_within_a_second_and_names_are_escaped(tmp_path: Path) -> None:
    path, card = tmp_path / "network.safetensors", CARD.to_dict()
    many = {str(number): 0 for number in range(500_000)}
    for hostile in ({**card, **many}, {**card, "metrics": many}, {**card, "recipe": "a" * 6_000_000}):
        write(path, hostile, {"none": torch.zeros(1)})
        started = time.process_time()
        with pytest.raises(CheckpointError, match=r"characters; at most 262,144 are read"):
            load_checkpoint(path)
        assert time.process_time() - started < 1
    write(path, {**card, "\x1b[2J\n" * 1000: 0})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_the_version_of_the_same_content_is_that_of_earlier_releases(tmp_path: Path) -> None:
    """Whole numbers in a card must not become floats, because the version is a hash of the file."""
    linear, path = torch.nn.Linear(3, 2), tmp_path / "network.safetensors"
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8)
    verification = {
        "thresholds": [{"fmr": 1, "cosine": 0, "hit_rate": 1}],
        "calibration": {"slope": 9, "intercept": -4},
        "data": "made up",
    }
    card = Card(
        architecture="tiny",
        height=64,
        width=32,
        embedding_size=64,
        num_identities=4,
        mean=(0, 0.2, 1),
        std=(1, 2, 3.0),
        recipe="tiny",
        metrics={"rank1": 90, "mAP": 80.25},
        verification=verification,
        compatible_with={**PROMISE, "rank1_cross": 90},
        created="2026-01-02T03:04:05+00:00",
    )
    assert save_checkpoint(path, linear, card) == "bdf56ba9dec1"
    assert save_checkpoint(path, linear, card, half=True) == "17624726fa3f"
    assert save_foreign(path, b"<net/>", b"1234", card) == "516abb00347d"
    found = read_card(path)
    assert (found.verification, found.compatible_with) == (card.verification, card.compatible_with)
    assert found.mean == (0.0, 0.2, 1.0)


@pytest.mark.parametrize("card", [[], None, "text", {}])
def test_a_card_of_another_kind_is_refused(tmp_path: Path, card: object) -> None:
    with pytest.raises(CheckpointError, match="card"):
        load_checkpoint(write(tmp_path / "network.safetensors", card))


def test_a_weight_that_is_missing_extra_or_not_finite_is_named(tmp_path: Path) -> None:
    path, tensors = tmp_path / "network.safetensors", build().state_dict()
    without = {name: tensor for name, tensor in tensors.items() if name != "neck.weight"}
    with pytest.raises(CheckpointError, match=r"neck\.weight is missing"):
        load_checkpoint(write(path, CARD.to_dict(), without))
    with pytest.raises(CheckpointError, match="guest does not belong there"):
        load_checkpoint(write(path, CARD.to_dict(), {**tensors, "guest": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"not finite in neck\.weight"):
        load_checkpoint(write(path, CARD.to_dict(), {**tensors, "neck.weight": torch.full((64,), torch.nan)}))


def test_a_failed_save_leaves_the_old_file_and_no_other(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, build(), replace(CARD, metrics={"rank1": object()}))  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_shipped_checkpoint_is_small_and_its_model_card_has_its_figures() -> None:
    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT)
    assert DEFAULT_CHECKPOINT.stat().st_size <= 12_000_000
    assert checkpoint.card.architecture == "rga_sc_osnet"
    model_card = DEFAULT_CHECKPOINT.with_name("MODEL_CARD.md").read_text()
    assert checkpoint.version in model_card
    for name in ("rank1", "mAP"):
        assert f"{checkpoint.card.metrics[name]:.2f}" in model_card

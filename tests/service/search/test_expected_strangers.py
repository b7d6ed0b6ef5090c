"""Expected strangers, and the decisions of searches: of how many people, by whose calibration, in order."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from counted import COUNTED, VERIFICATION, save_counted
from live_server import crop, enroll, search, serve
from model.strangers import StrangerRates
from model.verification import Verification
from service.serving.strangers import Strangers, strangers_of
from service.serving.thresholds import SHIPPED
from service.settings import Settings

SEEN = {"anna": "door", "bert": "door", "carl": "hall", "dora": "hall", "emil": "hall"}


def rates_of(counted: dict[str, Any]) -> StrangerRates:
    return StrangerRates.from_dict(counted)


@pytest.fixture(scope="module")
def gallery(
    checkpoints: Path, make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Five people with two crops each, and a network whose card has counted strangers."""
    folder = tmp_path_factory.mktemp("counted")
    network = save_counted(checkpoints / "tiny.safetensors", folder / "counted.safetensors")
    chosen = make_settings(folder / "data", default_checkpoint=network)
    with serve(chosen) as client:
        for seed, (name, camera) in enumerate(SEEN.items()):
            enroll(client, crop(seed), crop(seed, 1), identity_id=name, camera_id=camera, track_id=name)
        yield client


@pytest.mark.parametrize(
    ("fields", "num_items", "num_identities"),
    [
        ({}, 10, 5),
        ({"camera_id": "door"}, 4, 2),
        ({"exclude_camera_id": "door"}, 6, 3),
        ({"identity_id": ["anna", "carl", "dora"]}, 6, 3),
        ({"exclude_identity_id": "anna"}, 8, 4),
        ({"group_by": "item"}, 10, 5),
        ({"group_by": "track"}, 10, 5),
        ({"group_by": "camera"}, 10, 5),
        ({"camera_id": "roof"}, 0, 0),
    ],
)
def test_strangers_are_expected_among_the_people_who_are_searched(
    gallery: httpx.Client, fields: dict[str, Any], num_items: int, num_identities: int
) -> None:
    answer = search(gallery, crop(0, 2), top_k=100, **fields)
    assert (answer["num_searched"], answer["num_identities"]) == (num_items, num_identities)
    for match in answer["matches"]:
        expected = rates_of(COUNTED).rate(match["score"]) * num_identities
        assert match["expected_strangers"] == pytest.approx(expected, rel=0.006)


def test_the_answer_says_what_decides_and_decides_so(gallery: httpx.Client) -> None:
    answer = search(gallery, crop(0, 2), top_k=100)
    limits = answer["calibration"]
    assert limits == {"source": "card", "num_people": 200, "match_below": 0.05, "unsure_below": 1.0}
    assert "thresholds" not in answer
    for match in answer["matches"]:
        is_match, is_unsure = (
            match["expected_strangers"] < limits[name] for name in ("match_below", "unsure_below")
        )
        assert match["decision"] == ("match" if is_match else "unsure" if is_unsure else "unknown")
        assert match["probability_even_prior"] > 0.5  # a cosine above 0.5, by the card


def test_a_limit_that_is_reached_is_not_kept() -> None:
    rates = StrangerRates((0.5, 0.1, 0.01), (0.2, 0.4, 0.6), 100, 1_000_000)
    strangers = Strangers(0.05, 1.0, rates, "card")
    found = [strangers.expected(0.6, num) for num in (4, 5, 99, 100, 101)]
    assert found == [0.04, 0.05, 0.99, 1.0, 1.01]
    assert [strangers.decide(one) for one in found] == ["match", "unsure", "unsure", "unknown", "unknown"]
    strict = Strangers(0.01, 0.01, rates, "card")
    assert [strict.decide(one) for one in (0.00999, 0.01)] == ["match", "unknown"]


RANKS = {"match": 0, "unsure": 1, "unknown": 2}
FALLING = st.lists(st.floats(1e-9, 1, exclude_max=True), min_size=3, max_size=9, unique=True)


@given(FALLING, st.lists(st.integers(-10_000, 10_000), min_size=9, max_size=9), st.data())
@examples(max_examples=100, deadline=None)
def test_no_answer_contradicts_itself(rates: list[float], cosines: list[int], data: st.DataObject) -> None:
    rows = [cosine / 10_000 for cosine in sorted(cosines)[: len(rates)]]
    known = StrangerRates(tuple(sorted(rates, reverse=True)), tuple(rows), 100, 1_000_000)
    strangers = Strangers(0.05, 1.0, known, "card")
    num_identities = data.draw(st.integers(1, 10**7))
    scores = sorted(data.draw(st.lists(st.floats(-1, 1), min_size=2, max_size=20)), reverse=True)
    expected = [strangers.expected(score, num_identities) for score in scores]
    assert all(one is not None and other is not None and one <= other for one, other in pairwise(expected))
    decisions = [RANKS[str(strangers.decide(one))] for one in expected]
    assert decisions == sorted(decisions)


def test_an_own_evaluation_comes_before_the_card_and_old_ones_are_passed_over() -> None:
    card, own = VERIFICATION | {"strangers": COUNTED}, COUNTED | {"num_identities": 77}
    found = strangers_of(card, {"strangers": own}, 0.1, 2.0)
    assert (found.source, found.match_below, found.unsure_below) == ("evaluation", 0.1, 2.0)
    assert found.rates == rates_of(own)
    for old in (None, {"evaluated_at": "then"}, {"strangers": None}):
        assert strangers_of(card, old, 0.05, 1.0).source == "card"
        unknown = strangers_of(VERIFICATION, old, 0.05, 1.0)
        assert (unknown.source, unknown.expected(0.99, 5), unknown.decide(None)) == ("none", None, None)
    assert strangers_of(None, None, 0.05, 1.0).source == "none"


def test_the_checkpoint_that_ships_expects_strangers_by_people_it_is_not_tested_on() -> None:
    (shipped,) = json.loads(SHIPPED.read_text()).values()
    Verification.model_validate(shipped)
    assert shipped["strangers"]["data"] == "market1501, its train split"
    strangers = strangers_of(shipped, None, 0.05, 1.0)
    assert strangers.rates is not None
    assert (strangers.source, strangers.rates.num_identities) == ("card", 751)
    same, different = strangers.expected(0.735, 700), strangers.expected(0.343, 700)  # of its model card
    assert [strangers.decide(one) for one in (same, different)] == ["match", "unknown"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"match_strangers": 0}, "match_strangers"),
        ({"match_strangers": 2.0}, "must be at least REID_MATCH_STRANGERS, which is 2"),
        ({"unsure_strangers": 0.01}, "must be at least REID_MATCH_STRANGERS, which is 0.05"),
    ],
)
def test_limits_that_cannot_be_had_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**given)

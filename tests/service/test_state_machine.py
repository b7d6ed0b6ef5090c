"""A gallery that changes networks while anything happens to it, against a model of what must be true."""

import itertools
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis.stateful import (
    invariant,
    run_state_machine_as_test,
)
from sqlalchemy import select

from gallery_machine import Happenings
from gallery_truth import (
    CLOSE,
    KEPT_VERSIONS,
    NUM_PICTURES,
    PICTURES,
    SHA256S,
    Networks,
)
from service.gallery.selection import Selection
from service.search.queries import Query
from service.search.search import search
from service.settings import Settings
from service.store.tables import Embedding, Item
from service.versions.registry import list_models

EVERYTHING = Query(top_k=1_000, group_by="item", among=Selection(), min_score=-1.0)


class Machine(Happenings):
    """What must be true of the gallery, its versions and its files after everything that happens."""

    num_checks = 0

    @invariant()
    def both_processes_find_what_is_there_and_nothing_else(self) -> None:
        truth, networks = self.truth, self.networks
        self.num_checks += 1
        picture = self.num_checks % NUM_PICTURES
        query_D = networks.embed(truth.active, picture)
        for process in self.processes:
            answer = search(process, [BytesIO(PICTURES[picture])], EVERYTHING)
            assert answer.model_version == answer.gallery_version == truth.active
            found = {match.items[0].item_id: match.items[0] for match in answer.matches}
            assert len(found) == len(answer.matches) == answer.num_searched
            assert found.keys() == truth.items.keys() - truth.left_out
            for item_id, scored in found.items():
                known = truth.items[item_id]
                cosine = float(networks.embed(truth.active, known.picture) @ query_D)
                assert scored.score == pytest.approx(cosine, abs=CLOSE)
                assert scored.identity_id == known.identity_id

    @invariant()
    def every_embedding_is_of_an_item_and_what_its_network_makes(self) -> None:
        truth, embedded = self.truth, self.embedded()
        assert embedded.keys() <= truth.registered
        for version, made in embedded.items():
            assert made.keys() <= truth.items.keys()
            for item_id, values in made.items():
                expected_D = self.networks.embed(version, truth.items[item_id].picture)
                assert np.abs(np.frombuffer(values, "<f2") - expected_D).max() < CLOSE
        assert embedded.get(truth.active, {}).keys() == truth.items.keys() - truth.left_out

    def embedded(self) -> dict[str, dict[str, bytes]]:
        """Return the embeddings in the database by version and item."""
        found: dict[str, dict[str, bytes]] = {}
        statement = select(Embedding.model_version, Embedding.values, Item.id)
        statement = statement.outerjoin(Item, Item.slot == Embedding.slot)
        with self.processes[0].store.sessions.read() as session:
            for version, values, item_id in session.execute(statement):
                found.setdefault(version, {})[str(item_id)] = values
        return found

    @invariant()
    def the_versions_are_in_the_states_that_they_should_be(self) -> None:
        truth, embedded = self.truth, self.embedded()
        known = {one.row.version: one.state for one in list_models(self.processes[0].store)}
        assert known.keys() == truth.registered
        files = {path.name for path in self.settings.models_dir.iterdir()}
        assert files == {f"{version}.safetensors" for version in truth.registered}
        for version, state in known.items():
            if version == truth.active:
                assert state == "active"
            elif truth.job_id and version == truth.version:
                assert state == "backfilling"
            elif version in truth.been:
                assert state == "retired"
            else:
                is_ready = 0 < len(truth.items) == len(embedded.get(version, {}))
                assert state == ("ready" if is_ready else "registered")

    @invariant()
    def the_disk_has_the_crops_of_the_items_and_no_others(self) -> None:
        pictures = {known.picture for known in self.truth.items.values()} - self.truth.lost
        assert {path.name for path in self.processes[0].store.crops.paths()} == {
            SHA256S[one] for one in pictures
        }


def run(networks: Networks, make: Callable[[], Settings], num_examples: int) -> None:
    """Do random things, the same ones every time."""

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(networks, make)

    often = examples(
        max_examples=num_examples,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Here, settings=often)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """Three tiny networks."""
    return Networks(tmp_path_factory.mktemp("networks"))


def settings_of(networks: Networks, data_dir: Path, **fields: object) -> Settings:
    """Return the settings of a gallery in a folder, which starts with the first network."""
    first = networks.paths[networks.versions[0]]
    fixed = {"index": "exact", "backfill_share": 1.0, "keep_versions": KEPT_VERSIONS}
    return Settings.model_validate({"data_dir": data_dir, "default_checkpoint": first} | fixed | fields)


def test_whatever_happens_a_gallery_is_as_it_must_be(
    networks: Networks, tmp_path: Path, is_long: bool
) -> None:
    numbers = itertools.count()
    shutil.copytree(networks.cache, tmp_path / "new" / "cache")
    Machine(networks, lambda: settings_of(networks, tmp_path / "new")).teardown()

    def make() -> Settings:
        data_dir = tmp_path / str(next(numbers))
        shutil.copytree(tmp_path / "new", data_dir)
        return settings_of(networks, data_dir)

    run(networks, make, 10 if is_long else 2)


def test_on_postgresql_too(
    networks: Networks, tmp_path: Path, postgres: Callable[[], str], is_long: bool
) -> None:
    numbers = itertools.count()

    def make() -> Settings:
        data_dir = tmp_path / str(next(numbers))
        shutil.copytree(networks.cache, data_dir / "cache")
        return settings_of(networks, data_dir, database_url=postgres())

    run(networks, make, 2 if is_long else 1)

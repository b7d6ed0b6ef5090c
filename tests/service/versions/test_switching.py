"""What becomes of a gallery that changes its network: states, refusals, and what interrupts an activation."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from interrupted import Process
from live_server import crop
from recorded_priority import RecordedPriority
from service.errors import ModelInUse, ModelNotFound
from service.gallery import enrolment as gallery
from service.gallery.items import delete_item, list_items
from service.gallery.metadata import ItemMetadata
from service.gallery.selection import Selection
from service.index import Filter
from service.jobs import jobs
from service.jobs.workers import Worker
from service.people.corrections import correct_item
from service.people.erasure import erase_identity
from service.serving.priority import BACKFILL_WAITS_S, ENROLMENT_WAITS_S
from service.serving.replica import Replica
from service.serving.stored import CROPS_AT_ONCE
from service.settings import Settings
from service.store.tables import Embedding, Job
from service.versions.activation import run_activation
from service.versions.activation_queue import KIND, ActivationOptions, queue_activation, queue_rollback
from service.versions.backfill import MAX_UNTHROTTLED
from service.versions.evaluation import request_evaluation
from service.versions.registry import delete_embeddings, delete_model, find_model, register

NUM_ITEMS = 40
"""Two pages of a backfill: 32 and 8."""

SECOND_PAGE, CUT_OVER = 4, 5
"""Changes that an activation makes; it is taken up in the first, and says how far it is in the second."""


@pytest.fixture
def one(either_settings: Settings) -> Iterator[Process]:
    """A process on a new gallery with forty items."""
    process = Process(either_settings)
    contents = [BytesIO(crop(seed)) for seed in range(NUM_ITEMS)]
    gallery.enroll(process, contents, [ItemMetadata()] * NUM_ITEMS)
    yield process
    process.end()


@pytest.fixture
def two(one: Process) -> Iterator[Process]:
    """Another process on the same gallery."""
    process = Process(one.store.settings)
    yield process
    process.end()


def add(process: Process, checkpoint: Path) -> str:
    with checkpoint.open("rb") as file:
        return register(process.store, file)[0].row.version


def add_again(process: Process, checkpoint: Path) -> None:
    add(process, checkpoint)


def cancel(process: Process, job: Job) -> None:
    jobs.cancel(process.store, job.id)


def switch(process: Process, version: str, *, allow_missing: bool = False) -> None:
    """Activate a version."""
    job = queue_activation(process.store, version, ActivationOptions(allow_missing=allow_missing))
    work(process)
    assert job_of(process, job.id).state == "succeeded"


def work(process: Process) -> None:
    """Do the activation that is due, to its end."""
    worker = Worker(process.store, KIND, partial(run_activation, process))
    worker.run_due()
    worker.wait()
    process.nothing_more()


def job_of(process: Process, job_id: str) -> Job:
    return jobs.find_job(process.store, job_id).row


def test_an_activation_that_is_cancelled_goes_on_later_from_where_it_was(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    first, version = one.current().version, add(one, another_checkpoint)
    job = queue_activation(one.store, version, ActivationOptions())
    assert find_model(two.store, version).state == "backfilling"
    one.arrange(SECOND_PAGE, "before", partial(cancel, two, job))
    work(one)
    assert job_of(one, job.id).state == "cancelled"
    assert one.refresh().version == two.refresh().version == first
    known = find_model(two.store, version)
    assert (known.state, known.num_embedded) == ("registered", 32)
    with one.store.sessions.write.begin() as session:
        made = Embedding.model_version == version
        values = session.scalar(select(Embedding.values).where(made).order_by(Embedding.slot).limit(1)) or b""
        marked = values[:-2] + bytes([values[-2] ^ 1, values[-1]])
        session.execute(update(Embedding).where(made, Embedding.values == values).values(values=marked))
    later = queue_activation(two.store, version, ActivationOptions())
    work(two)
    assert (job_of(two, later.id).state, job_of(two, later.id).done) == ("succeeded", NUM_ITEMS)
    assert one.refresh().version == version
    with one.store.sessions.read() as session:
        assert session.scalar(select(Embedding.slot).where(made, Embedding.values == marked))


def test_a_version_is_ready_when_only_the_switch_was_not_made(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    first, version = one.current().version, add(one, another_checkpoint)
    job = queue_activation(one.store, version, ActivationOptions())
    one.arrange(CUT_OVER, "before", partial(cancel, two, job))
    work(one)
    assert job_of(one, job.id).state == "cancelled"
    assert one.refresh().version == two.refresh().version == first
    known = find_model(two.store, version)
    assert (known.state, known.coverage) == ("ready", 1.0)
    gallery.enroll(one, [BytesIO(crop(100))], [ItemMetadata()])
    assert find_model(two.store, version).state == "registered"


def test_an_item_without_a_crop_that_is_deleted_meanwhile_is_not_missing(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    version = add(one, another_checkpoint)
    lost = gallery.enroll(one, [BytesIO(crop(100))], [ItemMetadata()]).items[0]
    one.store.crops.path(lost.sha256).unlink()
    job = queue_activation(one.store, version, ActivationOptions())
    one.arrange(SECOND_PAGE, "before", lambda: delete_item(two.store, lost.id))
    work(one)
    assert (job_of(one, job.id).state, job_of(one, job.id).error) == ("succeeded", None)
    assert len(two.refresh().index) == NUM_ITEMS


def record_waits(process: Process) -> list[tuple[float, int]]:
    """Return the waits of the process for searches, from now on."""
    process.priority = priority = RecordedPriority()
    return priority.waits


def test_a_backfill_gives_way_to_searches_but_not_for_ever(
    settings: Settings, another_checkpoint: Path
) -> None:
    process, num = Process(settings), MAX_UNTHROTTLED + CROPS_AT_ONCE
    gallery.enroll(process, [BytesIO(crop(seed)) for seed in range(num)], [ItemMetadata()] * num)
    first, version = process.current().version, add(process, another_checkpoint)
    waits = record_waits(process)
    with process.priority.search():
        switch(process, version)
    assert waits == [(BACKFILL_WAITS_S, 1)] * (num // CROPS_AT_ONCE)
    waits.clear()
    with process.store.sessions.write.begin() as session:
        session.execute(delete(Embedding).where(Embedding.model_version == first))
    switch(process, first)
    assert waits == [(BACKFILL_WAITS_S, 0)] * (num // CROPS_AT_ONCE)
    process.end()


def test_an_enrolment_gives_way_to_searches_for_a_moment(one: Process) -> None:
    waits = record_waits(one)
    with one.priority.search():
        gallery.enroll(one, [BytesIO(crop(100))], [ItemMetadata()])
    assert set(waits) == {(ENROLMENT_WAITS_S, 1)}
    waits.clear()
    gallery.enroll(one, [BytesIO(crop(101))], [ItemMetadata()])
    assert set(waits) == {(ENROLMENT_WAITS_S, 0)}


def test_embeddings_that_are_searched_are_never_dropped(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    with pytest.raises(ModelInUse):
        delete_embeddings(one.store, one.current().version)
    version = add(one, another_checkpoint)
    switch(one, version)
    with pytest.raises(ModelInUse):
        delete_embeddings(two.store, version)
    third = Process(one.store.settings)
    assert len(third.current().index) == NUM_ITEMS
    third.end()


def test_a_version_that_is_registered_while_it_is_deleted_has_its_file(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    version = add(one, another_checkpoint)
    one.arrange(2, "after", partial(add_again, two, another_checkpoint))
    delete_model(one.store, version)
    known = find_model(two.store, version)
    assert (known.state, known.failure) == ("registered", None)


def test_what_was_left_out_is_found_by_every_process_once_its_crop_is_back(
    one: Process, two: Process, another_checkpoint: Path, tmp_path: Path
) -> None:
    first, version = one.current().version, add(one, another_checkpoint)
    switch(one, version)
    lost = one.store.crops.path(gallery.enroll(one, [BytesIO(crop(100))], [ItemMetadata()]).items[0].sha256)
    lost.rename(tmp_path / "lost")
    switch(one, first, allow_missing=True)
    assert len(two.refresh().index) == NUM_ITEMS
    two.save_snapshot(is_last=True)
    switch(one, version)  # which the other process does not notice
    (tmp_path / "lost").rename(lost)
    switch(one, first)
    assert len(one.refresh().index) == len(two.refresh().index) == NUM_ITEMS + 1
    third = Process(one.store.settings)  # which begins with the snapshot
    assert len(third.refresh().index) == NUM_ITEMS + 1
    third.end()


def test_a_rollback_takes_the_index_that_is_still_in_memory(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    version, size = add(one, another_checkpoint), one.current().index.embedding_size
    kept = {process: process.refresh().replica for process in (one, two)}
    slots = set(one.current().index.slots().tolist())
    switch(one, version)
    assert two.refresh().version == version
    corrected, removed, *_ = list_items(one.store, Selection(), 2)[0]
    new = gallery.enroll(one, [BytesIO(crop(100))], [ItemMetadata(camera_id="door")]).items[0]
    correct_item(one.store, corrected.id, {"identity_id": "anna", "camera_id": "yard", "track_id": "t"})
    delete_item(one.store, removed.id)
    roll_back(one)
    for process, replica in kept.items():
        assert process.refresh().replica is replica
        with process.store.sessions.read() as session:
            anew = Replica.load(session, replica.version, size)
        assert contents(replica) == contents(anew)
        assert contents(replica).keys() == slots - {removed.slot} | {new.slot}


def roll_back(process: Process) -> None:
    """Go back to the version before this one."""
    job = queue_rollback(process.store)
    work(process)
    assert job_of(process, job.id).state == "succeeded"


def contents(replica: Replica) -> dict[int, tuple[object, ...]]:
    """Return all that an index holds, by slot."""
    columns, rows, embeddings_ND = replica.index.matching(Filter())
    known = zip(
        columns.identities.decoded(rows),
        columns.cameras.decoded(rows),
        columns.times[rows].tolist(),
        columns.tracks.decoded(rows),
        [embedding_D.tobytes() for embedding_D in embeddings_ND[rows]],
        strict=True,
    )
    return dict(zip(columns.slots[rows].tolist(), known, strict=True))


def test_what_is_erased_is_in_no_index_that_is_kept_for_a_rollback(
    one: Process, two: Process, another_checkpoint: Path
) -> None:
    first, kept, version = one.current().version, one.current().replica, add(one, another_checkpoint)
    before, after = list_items(one.store, Selection(), 2)[0]
    erase_identity(two.store, before.identity.id)
    switch(one, version)
    one.discard_erased()  # nothing: it was still in service then
    roll_back(one)
    assert one.refresh().replica is kept
    slots = set(kept.index.slots().tolist())
    switch(one, version)
    erase_identity(two.store, after.identity.id)
    one.discard_erased()
    assert one.take_former_replica(first) is None
    roll_back(one)
    assert contents(one.refresh().replica).keys() == slots - {after.slot}


def test_an_index_in_memory_that_lacks_something_is_built_anew(
    one: Process, another_checkpoint: Path
) -> None:
    kept, version = one.current().replica, add(one, another_checkpoint)
    before = contents(kept)
    switch(one, version)
    assert kept.index.delete([7]) == 1
    roll_back(one)
    assert one.refresh().replica is kept
    assert contents(kept) == before


@pytest.mark.parametrize(("kind", "state"), [("activation", "backfilling"), ("evaluation", "evaluating")])
def test_a_version_that_a_job_works_with_says_so_and_is_not_deleted(
    one: Process, another_checkpoint: Path, kind: str, state: str
) -> None:
    version = add(one, another_checkpoint)
    job = (
        request_evaluation(one.store, version)
        if kind == "evaluation"
        else queue_activation(one.store, version, ActivationOptions())
    )
    assert find_model(one.store, version).state == state
    with pytest.raises(ModelInUse, match=f"/jobs/{job.id}"):
        delete_model(one.store, version)
    jobs.cancel(one.store, job.id)
    assert find_model(one.store, version).state == "registered"
    delete_model(one.store, version)
    with pytest.raises(ModelNotFound):
        find_model(one.store, version)

"""A state machine: two processes use one gallery and switch networks, and the gallery must stay correct."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)
from sqlalchemy import update

from gallery_truth import (
    MANY,
    NUM_NETWORKS,
    NUM_PICTURES,
    PICTURES,
    SHA256S,
    Known,
    Networks,
    Truth,
)
from interrupted import Died, Moment, Process, die
from service.errors import (
    ActivationRunning,
    IdentityNotFound,
    JobEnded,
    ModelInUse,
    ModelNotFound,
    NothingToRollBackTo,
    ServiceError,
)
from service.gallery import enrolment as gallery
from service.gallery.items import delete_item
from service.gallery.metadata import ItemMetadata
from service.jobs import jobs
from service.jobs.workers import Worker
from service.people.corrections import correct_item
from service.people.erasure import erase_identity
from service.settings import Settings
from service.store.tables import Job
from service.versions.activation import run_activation
from service.versions.activation_queue import KIND, ActivationOptions, queue_activation, queue_rollback
from service.versions.registry import delete_model, list_models, register


@dataclass(frozen=True)
class Meanwhile:
    """An event during an activation: at which change of the gallery, and to which item."""

    what: str
    at: int
    moment: Moment
    number: int


class Happenings(RuleBasedStateMachine):
    """Two processes on one gallery. Each rule is done by one of the two, chosen at random."""

    def __init__(self, networks: Networks, make: Callable[[], Settings]) -> None:
        super().__init__()
        self.networks = networks
        self.settings = make()
        self.processes = [Process(self.settings), Process(self.settings)]
        registered = {known.row.version for known in list_models(self.processes[0].store)}
        self.truth = Truth(registered=registered, been=[networks.versions[0]])
        self.could_be_missing: set[str] = set()
        for number, version in enumerate(networks.versions):
            if version not in registered:
                self.register(0, number)

    def teardown(self) -> None:
        for process in self.processes:
            process.close()
            process.end()

    who = st.integers(0, 1)
    pictures = st.integers(0, NUM_PICTURES - 1)
    names = st.sampled_from(["anna", "bob", "cleo"])
    networks_by_number = st.integers(0, NUM_NETWORKS - 1)
    any_item = st.integers(0, 1_000)
    meanwhiles = st.builds(
        Meanwhile,
        what=st.sampled_from(
            [
                "nothing",
                "an item is enrolled",
                "an item is deleted",
                "an item is relabelled",
                "an identity is erased",
                "it is cancelled",
                "the process is stopped",
                "the process dies",
            ]
        ),
        at=st.integers(1, 7),
        moment=st.sampled_from(["before", "within", "after"]),
        number=st.integers(0, 1_000),
    )

    def item(self, number: int) -> str:
        """Return one of the items."""
        return list(self.truth.items)[number % len(self.truth.items)]

    @initialize()
    def enrol_many(self) -> None:
        self.enrol_by(self.processes[0], range(NUM_PICTURES, NUM_PICTURES + MANY), None, None)

    @rule(by=who, picture=pictures, name=st.none() | names, camera=st.none() | st.just("door"))
    def enrol(self, by: int, picture: int, name: str | None, camera: str | None) -> None:
        self.enrol_by(self.processes[by], [picture], name, camera)

    @rule(by=who, what=st.sampled_from(["delete", "relabel", "erase"]), number=any_item, name=names)
    def change(self, by: int, what: str, number: int, name: str) -> None:
        if what == "erase":
            self.erase_by(self.processes[by], name)
        elif self.truth.items and what == "delete":
            self.delete_by(self.processes[by], number)
        elif self.truth.items:
            self.relabel_by(self.processes[by], number, name)

    def enrol_by(
        self, process: Process, pictures: range | list[int], name: str | None, camera: str | None
    ) -> None:
        uploads = [BytesIO(PICTURES[picture]) for picture in pictures]
        enrolment = gallery.enroll(
            process, uploads, [ItemMetadata(identity_id=name, camera_id=camera)] * len(uploads), "return"
        )
        for picture, item, is_new in zip(pictures, enrolment.items, enrolment.are_new, strict=True):
            known = Known(picture, name or item.identity.id, camera)
            same = [i for i, k in self.truth.items.items() if (k.picture, k.camera_id) == (picture, camera)]
            assert is_new == (camera is None or not same)
            assert is_new or item.id == same[0]
            if is_new:
                self.truth.items[item.id] = known
        assert enrolment.model_version in (self.truth.active, self.truth.version)
        self.truth.lost -= set(pictures)

    def delete_by(self, process: Process, number: int) -> None:
        item_id = self.item(number)
        delete_item(process.store, item_id)
        self.truth.drop([item_id])

    def erase_by(self, process: Process, name: str) -> None:
        gone = [item_id for item_id, known in self.truth.items.items() if known.identity_id == name]
        if gone:
            assert sorted(erase_identity(process.store, name).item_ids) == sorted(gone)
            self.truth.drop(gone)
        else:
            with pytest.raises(IdentityNotFound):
                erase_identity(process.store, name)

    def relabel_by(self, process: Process, number: int, name: str) -> None:
        item_id = self.item(number)
        correct_item(process.store, item_id, {"identity_id": name})
        self.truth.items[item_id].identity_id = name

    @precondition(lambda self: self.truth.items)
    @rule(number=any_item)
    def lose_the_file_of_a_crop(self, number: int) -> None:
        picture = self.truth.items[self.item(number)].picture
        self.processes[0].store.crops.path(SHA256S[picture]).unlink(missing_ok=True)
        self.truth.lost.add(picture)

    @rule(by=who, number=networks_by_number, is_wanted=st.booleans())
    def want(self, by: int, number: int, is_wanted: bool) -> None:
        if is_wanted:
            self.register(by, number)
        else:
            self.delete_version(by, number)

    def register(self, by: int, number: int) -> None:
        version = self.networks.versions[number]
        with self.networks.paths[version].open("rb") as file:
            known, is_new = register(self.processes[by].store, file)
        assert (known.row.version, is_new) == (version, version not in self.truth.registered)
        self.truth.registered.add(version)

    def delete_version(self, by: int, number: int) -> None:
        version, truth = self.networks.versions[number], self.truth
        if version not in truth.registered:
            with pytest.raises(ModelNotFound):
                delete_model(self.processes[by].store, version)
        elif version == truth.active or (truth.job_id and version == truth.version):
            with pytest.raises(ModelInUse):
                delete_model(self.processes[by].store, version)
        else:
            delete_model(self.processes[by].store, version)
            truth.registered.remove(version)
            truth.been = [one for one in truth.been if one != version]

    @rule(by=who, number=networks_by_number, meanwhile=st.none() | meanwhiles)
    def activate(self, by: int, number: int, meanwhile: Meanwhile | None) -> None:
        self.activate_by(by, number, ActivationOptions())
        if self.truth.job_id and meanwhile:
            self.work(1 - by, meanwhile)

    @rule(by=who, number=networks_by_number, meanwhile=meanwhiles)
    def activate_without_what_is_missing(self, by: int, number: int, meanwhile: Meanwhile) -> None:
        self.activate_by(by, number, ActivationOptions(allow_missing=True))
        if self.truth.job_id:
            self.work(by, meanwhile)

    def activate_by(self, by: int, number: int, wanted: ActivationOptions) -> None:
        version = self.networks.versions[number]
        self.queue(version, wanted, lambda: queue_activation(self.processes[by].store, version, wanted))

    @rule(by=who, meanwhile=st.none() | meanwhiles)
    def roll_back(self, by: int, meanwhile: Meanwhile | None) -> None:
        if self.truth.been[:-1]:
            self.queue(
                self.truth.been[-2], ActivationOptions(), lambda: queue_rollback(self.processes[by].store)
            )
        else:
            with pytest.raises(NothingToRollBackTo):
                queue_rollback(self.processes[by].store)
        if self.truth.job_id and meanwhile:
            self.work(by, meanwhile)

    def queue(self, version: str, wanted: ActivationOptions, ask: Callable[[], Job]) -> None:
        truth = self.truth
        if version not in truth.registered:
            with pytest.raises(ModelNotFound):
                ask()
        elif truth.job_id:
            with pytest.raises(ActivationRunning, match=truth.job_id):
                ask()
        else:
            job = ask()
            assert job.state == ("succeeded" if version == truth.active else "queued")
            if job.state == "queued":
                truth.job_id, truth.version, truth.allow_missing = job.id, version, wanted.allow_missing

    @precondition(lambda self: self.truth.job_id)
    @rule(by=who, meanwhile=meanwhiles)
    def work(self, by: int, meanwhile: Meanwhile) -> None:
        """Do the queued activation, with an event in its course."""
        process, other, truth = self.processes[by], self.processes[1 - by], self.truth
        what, number = meanwhile.what, meanwhile.number
        happenings: dict[str, Callable[[], None]] = {
            "nothing": lambda: None,
            "an item is enrolled": lambda: self.enrol_by(other, [number % NUM_PICTURES], None, None),
            "an item is deleted": lambda: self.delete_by(other, number) if truth.items else None,
            "an item is relabelled": lambda: self.relabel_by(other, number, "anna") if truth.items else None,
            "an identity is erased": lambda: self.erase_by(other, "anna"),
            "it is cancelled": lambda: self.cancel_by(other),
            "the process is stopped": process.store.stopping.set,
            "the process dies": die,
        }
        self.could_be_missing = self.lost_items()
        process.arrange(
            meanwhile.at, meanwhile.moment if what == "the process dies" else "before", happenings[what]
        )
        if what == "the process dies":
            with suppress(Died, ServiceError):
                if (job := jobs.claim_job(process.store, KIND)) is not None:
                    run_activation(process, job)
        else:
            worker = Worker(process.store, KIND, partial(run_activation, process))
            worker.run_due()
            worker.wait()
        process.nothing_more()
        if what == "the process dies":
            self.restart(by, is_clean=False)
            with other.store.sessions.write.begin() as session:  # as if time had passed
                session.execute(update(Job).values(alive_at=None))
        elif process.store.stopping.is_set():
            self.restart(by, is_clean=True)
        self.learn_how_it_ended()
        assert what in ("the process dies", "the process is stopped") or not truth.job_id

    @precondition(lambda self: self.truth.job_id)
    @rule(by=who)
    def cancel(self, by: int) -> None:
        self.cancel_by(self.processes[by])
        self.learn_how_it_ended()

    def cancel_by(self, process: Process) -> None:
        with suppress(JobEnded):
            jobs.cancel(process.store, self.truth.job_id)

    @rule(by=who, is_clean=st.booleans())
    def restart(self, by: int, is_clean: bool) -> None:
        if is_clean:
            self.processes[by].close()
        self.processes[by].end()
        self.processes[by] = Process(self.settings)

    def learn_how_it_ended(self) -> None:
        """Read the state of the job, and update the expected state of the gallery."""
        truth = self.truth
        job = jobs.find_job(self.processes[0].store, truth.job_id).row
        if job.state in jobs.NOT_ENDED:
            return
        truth.job_id = ""
        if job.state == "succeeded":
            left_out = set(cast("dict[str, list[str]]", job.result)["missing"]) & truth.items.keys()
            assert truth.allow_missing or not left_out
            assert left_out <= self.could_be_missing | self.lost_items()
            truth.activate(truth.version, left_out)
        elif job.state == "failed":
            missing = set(cast("dict[str, list[str]]", job.result)["missing"])
            assert missing
            assert not truth.allow_missing
            assert missing <= self.could_be_missing | self.lost_items()

    def lost_items(self) -> set[str]:
        """Return the items whose crop file was deleted by hand."""
        return {item_id for item_id, known in self.truth.items.items() if known.picture in self.truth.lost}

"""Bodies of requests and answers, as the API documents them."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import SelectionFields, cursor_of
from service.gallery.enrolment import Enrolment
from service.jobs.jobs import Progress
from service.search.ranking import Match
from service.search.search import Answer
from service.search.verify import Verified
from service.serving.thresholds import Decision, Source
from service.store.tables import Item, now


class DeletionOrder(BaseModel):
    """Which items to delete; the count guards against deleting others than those that were meant."""

    model_config = ConfigDict(extra="forbid")

    filter: SelectionFields
    dry_run: bool = False
    expected_count: Annotated[int | None, Field(ge=0)] = None
    """Needed unless it is a dry run: what a dry run has counted."""


class DeletionAnswer(BaseModel):
    """How many items were meant, and whether they are gone."""

    request_id: str
    num_items: int
    deleted: bool


class GalleryItem(BaseModel):
    """An enrolled crop; width and height are in pixels, upright; `sha256` is of the bytes as posted."""

    id: str
    identity_id: str
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    created_at: datetime
    sha256: str
    width: int
    height: int
    duplicate_of: str | None
    model_version: str
    image_url: str | None
    """None if the crop is not kept."""

    @classmethod
    def of(cls, item: Item, model_version: str) -> "GalleryItem":
        """Show a row."""
        return cls(
            id=item.id,
            identity_id=item.identity.id,
            camera_id=item.camera_id,
            captured_at=item.captured_at,
            track_id=item.track_id,
            created_at=item.created_at,
            sha256=item.sha256,
            width=item.width,
            height=item.height,
            duplicate_of=item.duplicate_of,
            model_version=model_version,
            image_url=image_url(item),
        )


class EnrolledItem(GalleryItem):
    """An item that a request has brought; if it `is_new` it was not there before."""

    is_new: bool


class EnrolmentAnswer(BaseModel):
    """The items, in the order of the images."""

    request_id: str
    model_version: str
    items: list[EnrolledItem]

    @classmethod
    def of(cls, enrolment: Enrolment, request_id: str) -> "EnrolmentAnswer":
        """Show what has been enrolled."""
        version = enrolment.model_version
        shown = [
            EnrolledItem(**GalleryItem.of(item, version).model_dump(), is_new=is_new)
            for item, is_new in zip(enrolment.items, enrolment.are_new, strict=True)
        ]
        return cls(request_id=request_id, model_version=version, items=shown)


class ItemAnswer(GalleryItem):
    """One item."""

    request_id: str


class ListedItem(GalleryItem):
    """An item of a list; `embedding`, if asked for, is base64 of float16, little endian."""

    embedding: str | None = None


class ItemsAnswer(BaseModel):
    """One page of a list, in the order of enrolment; the last one has no `next_cursor`."""

    request_id: str
    items: list[ListedItem]
    next_cursor: str | None

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        last: int | None,
        model_version: str,
        request_id: str,
        embeddings: Mapping[int, bytes] | None = None,
    ) -> "ItemsAnswer":
        """Show a page that ends with the slot `last`, with embeddings by slot if they are asked for."""
        shown = [ListedItem(**GalleryItem.of(item, model_version).model_dump()) for item in items]
        if embeddings is not None:
            for one, item in zip(shown, items, strict=True):
                values = embeddings.get(item.slot)
                one.embedding = None if values is None else b64encode(values).decode()
        return cls(request_id=request_id, items=shown, next_cursor=None if last is None else cursor_of(last))


class MatchedItem(BaseModel):
    """One of the items that speak for a match; `score` is its cosine with the query."""

    id: str
    score: float
    camera_id: str | None
    captured_at: datetime | None
    track_id: str | None
    image_url: str | None


class RankedMatch(BaseModel):
    """An identity, track, camera or item; its identity and score are those of its best item."""

    rank: int
    identity_id: str
    score: float
    decision: Decision | None
    probability: float | None
    items: list[MatchedItem]


class Thresholds(BaseModel):
    """From which score on a decision is match, and unsure; below it is unknown.

    They are of an evaluation of the model version on this gallery, or else from its card. Where there is
    neither, `source` is none, and there are no decisions and no probabilities.
    """

    match: float | None
    unsure: float | None
    source: Source


class SearchAnswer(BaseModel):
    """Matches, best first; `num_searched` items passed the filters.

    `model_version` embedded the query, `gallery_version` the items: the same, unless one has just been
    activated that is compatible with the other.

    A probability is that of one person, if of all pairs half are: a calibrated score, the same for all
    galleries.
    """

    request_id: str
    model_version: str
    gallery_version: str
    num_searched: int
    took_ms: float
    thresholds: Thresholds
    matches: list[RankedMatch]

    @classmethod
    def of(cls, answer: Answer, request_id: str, took_ms: float) -> "SearchAnswer":
        """Show what a search has found."""
        return cls(
            request_id=request_id,
            model_version=answer.model_version,
            gallery_version=answer.gallery_version,
            num_searched=answer.num_searched,
            took_ms=round(took_ms, 3),
            thresholds=Thresholds(**answer.thresholds.to_dict()),
            matches=[_ranked(rank, match, answer) for rank, match in enumerate(answer.matches, start=1)],
        )


JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class VerifyAnswer(BaseModel):
    """How alike two sets of crops are: `score` is the cosine of their mean embeddings."""

    request_id: str
    model_version: str
    score: float
    decision: Decision | None
    probability: float | None
    thresholds: Thresholds

    @classmethod
    def of(cls, verified: Verified, request_id: str) -> "VerifyAnswer":
        """Show what a comparison has found."""
        return cls(
            request_id=request_id,
            model_version=verified.model_version,
            score=verified.score,
            decision=verified.thresholds.decide(verified.score),
            probability=verified.thresholds.probability(verified.score),
            thresholds=Thresholds(**verified.thresholds.to_dict()),
        )


class FailedFile(BaseModel):
    """A file that was not enrolled, by its place in the request, and why."""

    position: int
    name: str
    detail: str


class JobAnswer(BaseModel):
    """Work in the background; `done` of `total` items, `rate` a second, and why it failed if it has.

    `seconds_left` is a guess by the rate. `result` is what it found. Files that were not enrolled count as
    done; of those, `errors` has the first thousand.
    """

    request_id: str
    id: str
    kind: str
    model_version: str | None
    state: JobState
    done: int
    total: int
    rate: float
    seconds_left: float | None
    error: str | None
    result: dict[str, Any] | None
    num_failed: int
    num_skipped: int
    errors: list[FailedFile]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, progress: Progress, request_id: str) -> "JobAnswer":
        """Show how far a job is."""
        job = progress.row
        row = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        seconds = ((job.finished_at or now()) - job.started_at).total_seconds() if job.started_at else 0
        rate = job.done / seconds if seconds > 0 else 0.0
        is_known = job.state == "running" and rate > 0
        return cls.model_validate(
            row
            | {
                "request_id": request_id,
                "rate": round(rate, 2),
                "seconds_left": round((job.total - job.done) / rate, 1) if is_known else None,
                "num_failed": progress.num_failed,
                "num_skipped": (job.options or {}).get("num_skipped", 0),
                "errors": [vars(error) for error in progress.errors],
            }
        )


class JobsAnswer(BaseModel):
    """Jobs, the newest first."""

    request_id: str
    jobs: list[JobAnswer]


class Status(BaseModel):
    """The process serves; when ready, what it serves."""

    status: Literal["alive", "ready"]
    model_version: str | None = None
    runtime: str | None = None
    num_items: int | None = None


class Problem(BaseModel):
    """What went wrong (RFC 9457); `code` is stable, `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None


def image_url(item: Item) -> str | None:
    """Return where the bytes of an item are, if they are kept."""
    return f"/gallery/{item.id}/image" if item.has_crop else None


def _ranked(rank: int, match: Match, answer: Answer) -> RankedMatch:
    items = [
        MatchedItem(
            id=scored.item_id,
            score=scored.score,
            camera_id=answer.items[scored.item_id].camera_id,
            captured_at=answer.items[scored.item_id].captured_at,
            track_id=answer.items[scored.item_id].track_id,
            image_url=image_url(answer.items[scored.item_id]),
        )
        for scored in match.items
    ]
    return RankedMatch(
        rank=rank,
        identity_id=match.identity_id,
        score=match.score,
        decision=answer.thresholds.decide(match.score),
        probability=answer.thresholds.probability(match.score),
        items=items,
    )

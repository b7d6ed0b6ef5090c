"""Search: embed the query crops, search the index, read the items of the hits, and rank them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select

from model.data.images import ImageInfo
from service import metrics
from service.audit.entries import Person, record
from service.audit.queries import keep_queries
from service.errors import Fault, ImageError, InvalidRequest
from service.gallery.conditions import to_filter
from service.index import Filter, GalleryIndex, Hits
from service.search.queries import Answer, BatchedQuery, Query, Told, tell
from service.search.ranking import ITEMS_PER_MATCH, Match, Scored, fuse, rank_groups, rank_items
from service.search.sought import Part, Sought, find_stored, mix
from service.serving.embedding import embed_in_batches, peak_bytes
from service.serving.generation import Generation
from service.serving.serving import Serving
from service.store.tables import Item, Rejection
from service.uploads.requests import decode_uploads, go_on, read_headers

SLOTS_PER_STATEMENT = 10_000
"""Most slots in one SQL statement; SQLite allows at most 32,766 variables."""

MAX_TRIES = 3
"""A search is tried again if items of its hits were deleted before their rows were read."""


def search(
    serving: Serving, uploads: Sequence[BinaryIO], query: Query, check: Callable[[], None] = go_on
) -> Answer:
    """Find the best matches for uploaded crops of one person, and for what `query.sought` adds to these.

    Args:
        serving: the generation that this process serves.
        uploads: the crops; none if the query has stored parts or embeddings alone.
        query: how to search.
        check: called before each step that takes long; raises an error if nobody waits for the answer.

    Raises:
        DecodingBusy: no memory is free to decode the images.
        GalleryItemNotFound: an item of `query.sought` does not exist.
        IdentityNotFound: the identity of `query.sought` does not exist.
        ImageError: one of the images is refused.
        InvalidRequest: nobody is looked for, or `query.sought` cannot be searched by.
        NotReady: no network is serving yet.
        VersionDiffers: the embeddings of `query.sought` are of a version that is not searched.
    """
    require_anybody(query.sought, has_images=bool(uploads))
    generation, (images_ND,), crops = embed_images(serving, {"images": uploads}, check)
    answer, told = answer_query(serving, generation, query, images_ND, [crop.sha256 for crop in crops])
    record(told.people, **told.details)
    return answer


def search_batch(
    serving: Serving,
    uploads: Sequence[BinaryIO],
    queries: Sequence[BatchedQuery],
    check: Callable[[], None] = go_on,
) -> list[Answer]:
    """Answer several queries, each as `search` does, by one generation. If one is refused, none is answered.

    Args:
        serving: the generation that this process serves.
        uploads: the crops of all queries. A crop that several queries share is embedded once.
        queries: the queries.
        check: called before each step that takes long; raises an error if nobody waits for the answer.

    Raises:
        ServiceError: as for `search`; the faults of an InvalidRequest have the place of the query.
    """
    for place, one in enumerate(queries):
        with _naming_query(place):
            require_anybody(one.query.sought, has_images=bool(one.images))
    generation, (images_ND,), crops = embed_images(serving, {"images": uploads}, check)
    answers: list[Answer] = []
    people: list[Person] = []
    details: list[dict[str, Any]] = []
    for place, one in enumerate(queries):
        check()
        chosen_ND = images_ND[np.array(one.images, np.int64)]
        sha256s = [crops[image].sha256 for image in one.images]
        with _naming_query(place):
            answer, told = answer_query(serving, generation, one.query, chosen_ND, sha256s)
        answers.append(answer)
        people += told.people
        details.append(told.details | {"num_people": len(told.people)})
    record(people, query_sha256=[crop.sha256 for crop in crops], queries=details)
    return answers


@contextmanager
def _naming_query(place: int) -> Iterator[None]:
    """Name the place of a query in the faults of its fields."""
    try:
        yield
    except InvalidRequest as error:
        faults = [replace(one, loc=("body", "queries", place, *one.loc[1:])) for one in error.faults]
        raise InvalidRequest(*faults) from None


def require_anybody(sought: Sought, *, has_images: bool) -> None:
    """Check that somebody is looked for.

    Raises:
        InvalidRequest: nobody is.
    """
    if not (has_images or sought.has_any):
        reason = "give images, item_id, query_identity_id or embedding, or several of them"
        raise InvalidRequest(Fault(("body", "images"), reason, "missing"), detail=reason)


def answer_query(
    serving: Serving,
    generation: Generation,
    query: Query,
    images_ND: NDArray[np.float32],
    sha256s: Sequence[str],
) -> tuple[Answer, Told]:
    """Answer a query whose images were embedded.

    Args:
        serving: the generation that this process serves.
        generation: the generation that has embedded the images.
        query: how to search.
        images_ND: the embeddings of the images, (N, D); none if the query has no image.
        sha256s: the hashes of the images.

    Returns:
        The answer, and what the audit is to say of it.

    Raises:
        ServiceError: as for `search`.
    """
    parts = [Part(fuse(images_ND), query.sought.images_weight)] if len(images_ND) else []
    with metrics.DATABASE_S.time(), serving.store.read() as session:
        stored = find_stored(session, generation, query.sought, query.cameras)
        only = to_filter(session, query.among)
        rejected = frozenset(session.scalars(_rejected_keys(stored.sha256s.union(sha256s))))
    only = replace(
        only,
        excluded_identity_keys=only.excluded_identity_keys | rejected,
        excluded_slots=stored.slots,
    )
    query_D = mix([*parts, *stored.parts])
    for _ in range(MAX_TRIES):
        with metrics.SEARCH_S.time():
            hits = _search_index(generation.index, query_D, query, only)
        with metrics.DATABASE_S.time():
            rows = _rows(serving, hits)
        if len(rows) == len(hits.slots):
            break  # otherwise items were deleted during the search, and another try finds others instead
        serving.refresh()
    matches = _rank(hits, rows, query)
    shown = {scored.item_id for match in matches for scored in match.items}
    items = {item.id: item for item in rows.values() if item.id in shown}
    version, searched = generation.version, generation.replica.version
    counts, thresholds = (hits.num_searched, hits.num_identities), generation.thresholds
    answer = Answer(version, searched, *counts, thresholds.strangers, thresholds, matches, items)
    return answer, tell(query, sha256s, stored.people, answer)


def embed_images(
    serving: Serving, uploads: Mapping[str, Sequence[BinaryIO]], check: Callable[[], None] = go_on
) -> tuple[Generation, list[NDArray[np.float32]], list[ImageInfo]]:
    """Embed uploaded crops with the active network, and bring the index up to date.

    Args:
        serving: the generation that this process serves.
        uploads: the form fields, each with its crops, perhaps none.
        check: called before each step that takes long; raises an error if nobody waits for the answer.

    Returns:
        The generation to search in, the embeddings (N, D) of each field, and the details of each crop.

    Raises:
        DecodingBusy: no memory is free to decode the images.
        ImageError: one of the images is refused.
        NotReady: no network is serving yet.
        StorageFull: the audit has no room to keep the crops.
    """
    generation = serving.current()
    needed = max(_needed_bytes(serving, field, crops) for field, crops in uploads.items())
    while True:
        infos: list[ImageInfo] = []
        embedded = []
        with serving.store.decoding.claim(needed):
            for field, crops in uploads.items():
                with _naming(field), serving.priority.search():
                    images = decode_uploads(crops, serving.limits, check)
                    embeddings_ND, found = embed_in_batches(generation.embedder, images, check=check)
                embedded.append(embeddings_ND)
                infos += found
        with metrics.DATABASE_S.time():
            active = serving.refresh()
        if active.embedder is generation.embedder:
            keep_queries(serving.store, chain.from_iterable(uploads.values()))
            return active, embedded, infos
        generation = active


def _needed_bytes(serving: Serving, field: str, uploads: Sequence[BinaryIO]) -> int:
    with _naming(field):
        return peak_bytes(read_headers(uploads, serving.limits))


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Name the field of the form in the error of a refused image."""
    try:
        yield
    except ImageError as error:
        error.field = field
        raise


def _rejected_keys(sha256s: Collection[str]) -> Select[int]:
    """Select the keys of identities that crops with the same bytes were rejected from."""
    return (
        select(Rejection.identity_key).join(Item, Item.slot == Rejection.slot).where(Item.sha256.in_(sha256s))
    )


def _search_index(index: GalleryIndex, query_D: NDArray[np.float32], query: Query, only: Filter) -> Hits:
    if query.group_by == "item":
        return index.search(query_D, query.top_k, only)
    return index.search_groups(query_D, query.top_k, ITEMS_PER_MATCH[query.group_by], only, query.group_by)


def _rows(serving: Serving, hits: Hits) -> dict[int, Item]:
    """Return the rows of the hits by slot, without items that were deleted after the search."""
    slots = hits.slots.tolist()
    rows: dict[int, Item] = {}
    with serving.store.read() as session:
        for start in range(0, len(slots), SLOTS_PER_STATEMENT):
            page = slots[start : start + SLOTS_PER_STATEMENT]
            rows |= {item.slot: item for item in session.scalars(select(Item).where(Item.slot.in_(page)))}
    return rows


def _rank(hits: Hits, rows: dict[int, Item], query: Query) -> list[Match]:
    found = zip(hits.slots.tolist(), hits.scores.tolist(), hits.group_keys.tolist(), strict=True)
    scored = [
        Scored(rows[slot].id, rows[slot].identity.id, max(-1.0, min(1.0, score)), group_key)
        for slot, score, group_key in found
        if slot in rows
    ]
    if query.group_by == "item":
        return rank_items(scored, query.top_k, query.min_score)
    return rank_groups(scored, query.top_k, ITEMS_PER_MATCH[query.group_by], query.min_score)

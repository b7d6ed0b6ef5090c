"""Many searches in one request: their crops are embedded together, in full batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from service.audit.entries import Person, record
from service.errors import InvalidRequest
from service.search.search import Answer, Query, answer_query, embed_images, require_anybody
from service.serving.serving import Serving
from service.uploads.requests import go_on


@dataclass(frozen=True)
class BatchedQuery:
    """One query of a batch, and the places of its crops among the crops of the request, from 0."""

    query: Query
    images: tuple[int, ...]


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
        with _naming(place):
            require_anybody(one.query.sought, has_images=bool(one.images))
    generation, (images_ND,), crops = embed_images(serving, {"images": uploads}, check)
    answers: list[Answer] = []
    people: list[Person] = []
    details: list[dict[str, Any]] = []
    for place, one in enumerate(queries):
        check()
        chosen_ND = images_ND[np.array(one.images, np.int64)]
        sha256s = [crops[image].sha256 for image in one.images]
        with _naming(place):
            answer, told = answer_query(serving, generation, one.query, chosen_ND, sha256s)
        answers.append(answer)
        people += told.people
        details.append(told.details | {"num_people": len(told.people)})
    record(people, query_sha256=[crop.sha256 for crop in crops], queries=details)
    return answers


@contextmanager
def _naming(place: int) -> Iterator[None]:
    """Name the place of a query in the faults of its fields."""
    try:
        yield
    except InvalidRequest as error:
        faults = [replace(one, loc=("body", "queries", place, *one.loc[1:])) for one in error.faults]
        raise InvalidRequest(*faults) from None

"""Suggestions: pairs of identities that are likely the same person, by their mean embeddings.

One request at a time compares identities in a process, because a comparison takes seconds. The others wait
briefly and are then refused, because each of them holds a thread that searches need.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock

from sqlalchemy import select

from service.errors import SuggestionsBusy, TooManyIdentities
from service.gallery.conditions import to_filter
from service.gallery.items import find_identity
from service.gallery.selection import Selection
from service.keys.callers import Cameras
from service.people.comparison import People, best_rows, impossible_pairs, topk_pairs
from service.serving.serving import Serving
from service.store.store import Store
from service.store.tables import Identity, Item, Rejection
from service.uploads.requests import go_on

MAX_IDENTITIES = 20_000
"""At most this many identities are compared with each other; the comparison takes some seconds."""

MAX_REQUESTS = 4
"""Requests of a process that may compare or wait at a time, because each holds a thread that others need."""

MAX_WAIT_S = 2.0
"""A request waits at most this long for its turn, in seconds; after that its client had better come again."""


@dataclass(frozen=True)
class PairMember:
    """One identity of a pair, and its item that is most similar to the other identity."""

    identity: Identity
    item: Item


@dataclass(frozen=True)
class Suggestion:
    """Two identities, and as `score` the cosine of their mean embeddings."""

    score: float
    members: tuple[PairMember, PairMember]


_places = BoundedSemaphore(MAX_REQUESTS)
_turn = Lock()


@contextmanager
def turn(max_wait_s: float = MAX_WAIT_S) -> Iterator[None]:
    """Wait for the turn to compare identities.

    Raises:
        SuggestionsBusy: too many wait already, or the turn has not come within `max_wait_s` seconds.
    """
    if not _places.acquire(blocking=False):
        raise SuggestionsBusy
    try:
        if not _turn.acquire(timeout=max_wait_s):
            raise SuggestionsBusy
        try:
            yield
        finally:
            _turn.release()
    finally:
        _places.release()


def suggest(
    serving: Serving,
    among: Selection,
    limit: int,
    min_score: float,
    identity_id: str | None,
    check: Callable[[], None] = go_on,
    cameras: Cameras = None,
) -> tuple[str, list[Suggestion]]:
    """Return the pairs of identities that are most likely one person, best first.

    Args:
        serving: the generation that this process serves.
        among: the items whose embeddings are compared.
        limit: most pairs.
        min_score: least cosine of a pair, from -1 to 1.
        identity_id: one identity of every pair; None for pairs of all identities.
        check: called before each step of the comparison; raises an error if nobody waits for the answer.
        cameras: the cameras that the caller is limited to; `among` must be within them.

    Returns:
        The model version of the compared embeddings, and the pairs.

    Raises:
        IdentityNotFound: there is no such identity.
        SuggestionsBusy: other requests compare identities.
        TooManyIdentities: there are more identities than can be compared with each other.
    """

    def pause() -> None:
        check()
        serving.priority.before_comparison()

    with turn():
        generation = serving.refresh()
        with serving.store.read() as session:
            key = None if identity_id is None else find_identity(session, identity_id, cameras).key
            only = to_filter(session, among)
            rejected = session.execute(
                select(Rejection.identity_key, Item.identity_key).join(Item, Item.slot == Rejection.slot)
            )
            rejected_keys = [(a, b) for a, b in rejected]
        columns, rows, rows_ND = generation.index.matching(only)
        people = People.of(columns, rows, rows_ND)
        if key is None and len(people) > MAX_IDENTITIES:
            raise TooManyIdentities(len(people), MAX_IDENTITIES)
        impossible = impossible_pairs(columns, people, rejected_keys)
        pairs = topk_pairs(people, limit, min_score, impossible, key, pause)
        slots = columns.slots[best_rows(people, pairs, pause)].tolist()
    keys = [people.keys[places].tolist() for _, *places in pairs]
    scores = [score for score, _, _ in pairs]
    return generation.replica.version, _look_up(serving.store, scores, keys, slots)


def _look_up(
    store: Store, scores: Sequence[float], keys: Sequence[list[int]], slots: Sequence[list[int]]
) -> list[Suggestion]:
    """Read the identities and items of pairs; pairs whose items were deleted or moved since are left out.

    Args:
        store: the gallery.
        scores: the score of each pair.
        keys: the keys of the two identities of each pair.
        slots: the item of each of the two identities.
    """
    all_slots = {slot for pair in slots for slot in pair}
    with store.read() as session:
        items = {item.slot: item for item in session.scalars(select(Item).where(Item.slot.in_(all_slots)))}
    suggestions = []
    for score, pair_keys, pair in zip(scores, keys, slots, strict=True):
        found = [items[slot] for slot in pair if slot in items]
        if [item.identity_key for item in found] == pair_keys:
            first, second = (PairMember(item.identity, item) for item in found)
            suggestions.append(Suggestion(min(1.0, score), (first, second)))
    return suggestions

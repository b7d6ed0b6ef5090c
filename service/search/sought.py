"""Who is looked for, beside uploaded crops: stored items, an identity, and embeddings, mixed by weights.

Nothing is embedded again: the embeddings of items are those that the index searches.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from service.audit.entries import Person
from service.errors import Fault, GalleryItemNotFound, InvalidRequest, VersionDiffers
from service.gallery.conditions import spellings
from service.gallery.items import find_identity
from service.gallery.metadata import OptionalSoughtName, blank_is_none
from service.gallery.selection import as_list
from service.index import Filter, GalleryIndex
from service.keys.callers import Cameras, sees
from service.search.ranking import fuse
from service.serving.generation import Generation
from service.store.tables import Item

MAX_ITEMS = 100
MAX_EMBEDDINGS = 16
MAX_BASE64 = 16_384
"""Characters of an embedding, enough for 6,144 dimensions."""

MIN_LENGTH = 1e-3
"""Least length of a mixed query. Below it the parts cancel each other out, and rounding would decide."""

Floats = NDArray[np.float32]

ItemIds = Annotated[
    list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_ITEMS), BeforeValidator(as_list)
]
Embeddings = Annotated[
    list[Annotated[str, Field(max_length=MAX_BASE64)]],
    Field(max_length=MAX_EMBEDDINGS),
    BeforeValidator(as_list),
]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Sought(BaseModel):
    """Who is looked for, beside uploaded crops.

    Each kind of part (images, items, identity, embeddings) is one vector of length 1: the normalised mean of
    its embeddings. The query is the sum of these vectors times their weights, less the mean of the items of
    `not_item_id` times its weight, normalised. It is Rocchio's query, with free weights (Manning et al.,
    Introduction to Information Retrieval, section 9.1.1).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: ItemIds = Field([], description="Stored items that show the person; several may be given.")
    query_identity_id: OptionalSoughtName = Field(
        None, description="An identity: the mean of its items that the caller sees."
    )
    embedding: Embeddings = Field(
        [],
        description="Embeddings of the person, base64 of little-endian float16, as GET /gallery with "
        "embeddings=true gives them; several may be given.",
    )
    embedding_version: Annotated[str | None, Field(max_length=64), BeforeValidator(blank_is_none)] = Field(
        None, description="The model version of these embeddings; needed beside embedding."
    )
    not_item_id: ItemIds = Field(
        [],
        description="Stored items of other people, which push the query away; several may be given.",
    )
    images_weight: Weight = Field(1.0, description="The weight of the images.")
    item_weight: Weight = Field(1.0, description="The weight of the items of item_id.")
    query_identity_weight: Weight = Field(1.0, description="The weight of query_identity_id.")
    embedding_weight: Weight = Field(1.0, description="The weight of the embeddings.")
    not_item_weight: Weight = Field(0.25, description="The weight of the items of not_item_id.")

    @property
    def has_any(self) -> bool:
        """Return whether somebody is looked for without uploaded crops."""
        return bool(self.item_id or self.query_identity_id or self.embedding)


NOBODY = Sought()
WEIGHTS = frozenset(name for name in Sought.model_fields if name.endswith("_weight"))


@dataclass(frozen=True)
class Part:
    """A part of a query: a vector (D,) of length 1, and its weight, which is negative if it pushes away."""

    vector_D: Floats  # noqa: N815 - a shape suffix
    weight: float


@dataclass
class Stored:
    """The stored parts of a query.

    Attributes:
        parts: their vectors.
        slots: the slots of the items that were named one by one, which are no matches.
        sha256s: the hashes of the crops of the items that show the person.
        people: what the audit says of the people.
    """

    parts: list[Part] = field(default_factory=list)
    slots: frozenset[int] = frozenset()
    sha256s: frozenset[str] = frozenset()
    people: list[Person] = field(default_factory=list)


def find_stored(session: Session, generation: Generation, sought: Sought, cameras: Cameras) -> Stored:
    """Find the stored parts of a query.

    Args:
        session: a session that reads.
        generation: the generation whose index is searched.
        sought: who is looked for.
        cameras: the cameras that the caller is limited to; anything else is as if it did not exist.

    Raises:
        GalleryItemNotFound: there is no such item.
        IdentityNotFound: there is no such identity.
        InvalidRequest: an embedding is malformed, or an item or an identity has no embedding to search by.
        VersionDiffers: the embeddings are of a version that is not searched.
    """
    index = generation.index
    shown = _items(session, sought.item_id, cameras)
    unlike = _items(session, sought.not_item_id, cameras)
    found = Stored(
        slots=frozenset(item.slot for item in (*shown, *unlike)),
        sha256s=frozenset(item.sha256 for item in shown),
        people=[
            *(Person("query", item.identity.id, item.id) for item in shown),
            *(Person("unlike", item.identity.id, item.id) for item in unlike),
        ],
    )
    for name, items, weight in (
        ("item_id", shown, sought.item_weight),
        ("not_item_id", unlike, -sought.not_item_weight),
    ):
        if items:
            found.parts.append(Part(fuse(_embeddings_of(index, items, name)), weight))
    if sought.query_identity_id is not None:
        identity = find_identity(session, sought.query_identity_id, cameras)
        found.people.append(Person("query", identity.id))
        items_ND = _of_identity(index, identity.key, cameras)
        if not len(items_ND):
            raise InvalidRequest(Fault(("body", "query_identity_id"), "has no items to search by"))
        found.parts.append(Part(fuse(items_ND), sought.query_identity_weight))
    if sought.embedding or sought.embedding_version is not None:
        found.parts.append(Part(fuse(_given(generation, sought)), sought.embedding_weight))
    return found


def mix(parts: Iterable[Part]) -> Floats:
    """Return the normalised sum (D,) of the parts of a query, each times its weight.

    Raises:
        InvalidRequest: the sum has hardly any length, because the parts cancel each other out.

    >>> mix([Part(np.array([1, 0], np.float32), 3), Part(np.array([0, 1], np.float32), -4)]).round(3).tolist()
    [0.6000000238418579, -0.800000011920929]
    """
    total_D = np.sum([part.weight * part.vector_D for part in parts], axis=0)
    length = float(np.linalg.norm(total_D))
    if length < MIN_LENGTH:
        raise InvalidRequest(
            Fault(("body", "item_weight"), "the weighted parts of the query add up to nothing")
        )
    return np.asarray(total_D / length, np.float32)


def _items(session: Session, item_ids: Sequence[str], cameras: Cameras) -> list[Item]:
    """Return items in the order of their ids, each once."""
    wanted = list(dict.fromkeys(item_ids))
    rows = session.scalars(select(Item).where(Item.id.in_(wanted)).options(joinedload(Item.identity)))
    there = {item.id: item for item in rows if sees(cameras, item.camera_id)}
    for item_id in wanted:
        if item_id not in there:
            raise GalleryItemNotFound(item_id)
    return [there[item_id] for item_id in wanted]


def _embeddings_of(index: GalleryIndex, items: Sequence[Item], name: str) -> Floats:
    try:
        return index.embeddings([item.slot for item in items]).astype(np.float32)
    except ValueError:
        reason = "has an item that the network which searches has not embedded"
        raise InvalidRequest(Fault(("body", name), reason)) from None


def _of_identity(index: GalleryIndex, key: int, cameras: Cameras) -> Floats:
    only = Filter(identity_keys=frozenset([key]), camera_ids=spellings(cameras or ()))
    _, rows, rows_ND = index.matching(only)
    return rows_ND[rows].astype(np.float32)


def _given(generation: Generation, sought: Sought) -> Floats:
    """Return the embeddings (N, D) that the caller has sent, each of length 1."""
    if sought.embedding_version is None or not sought.embedding:
        missing = "embedding_version" if sought.embedding else "embedding"
        raise InvalidRequest(
            Fault(("body", missing), "is missing: embedding and embedding_version go together", "missing")
        )
    searched = (generation.version, generation.replica.version)
    if sought.embedding_version not in searched:
        raise VersionDiffers(sought.embedding_version, generation.version)
    return np.stack([_decode(text, generation.index.embedding_size) for text in sought.embedding])


def _decode(text: str, size: int) -> Floats:
    try:
        values = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(Fault(("body", "embedding"), "is not base64")) from None
    if len(values) != 2 * size:
        reason = (
            f"has {len(values):,} bytes; an embedding of this network has {size} values, {2 * size:,} bytes"
        )
        raise InvalidRequest(Fault(("body", "embedding"), reason))
    embedding_D = np.frombuffer(values, "<f2").astype(np.float32)
    length = float(np.linalg.norm(embedding_D))
    if not (np.isfinite(length) and length >= MIN_LENGTH):
        raise InvalidRequest(Fault(("body", "embedding"), "has a value that is no number, or is zero"))
    return np.asarray(embedding_D / length, np.float32)

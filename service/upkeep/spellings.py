"""One Unicode form for the names of an older gallery: rename what can be renamed, and report what cannot.

A version before this one stored names as they were sent. Two spellings of one name, such as "José" with four
and with five code points, were two names. A start renames each such name in place if its composed form is
free. Two people who have one name are left alone, because only a person can tell whether they are one.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from unicodedata import is_normalized
from urllib.parse import quote

import structlog
from sqlalchemy import ColumnElement, LargeBinary, cast, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, selectinload

from model.data.names import normalise_name
from service.gallery.metadata import MAX_NAME, one_form, stored_form
from service.store.changes import Transaction
from service.store.database import pages
from service.store.store import Store
from service.store.tables import Attribute, Identity, Item

logger = structlog.get_logger(__name__)

MAX_LOGGED = 20
"""Most collisions that a start logs one by one; `reid check` prints all."""

ROWS = 10_000
"""Rows that are read from the database at a time."""

Text = InstrumentedAttribute[Any]
Kind = Literal["identity", "camera", "track", "attribute"]


@dataclass(frozen=True)
class Collision:
    """Names that differ in their Unicode form only, and were therefore not renamed.

    Attributes:
        kind: what the names are of.
        names: the spellings, the composed one first. A single one is a name that would become too long.
        owner: the identity, if the names are of its attributes.
    """

    kind: Kind
    names: tuple[str, ...]
    owner: str = ""

    def __str__(self) -> str:
        """Say what the names are and what to do; escapes show how the spellings differ."""
        names = [json.dumps(name) for name in self.names]
        if len(names) == 1:
            return f"{self.kind} {names[0]} stays: its composed form has more than {MAX_NAME} characters"
        same = f"{self.kind} {' and '.join(names)} are one name in two spellings"
        if self.kind == "identity":
            path = f"/identities/{quote(self.names[0], safe='')}/merge"
            return f'{same}: if they are one person, POST {path} {{"source_ids": [{", ".join(names[1:])}]}}'
        if self.kind == "attribute":
            return f"{same}: PATCH /identities/{quote(self.owner, safe='')} with the attributes to keep"
        return f"{same}: filters find both; to join them, PATCH /gallery/ITEM each item of the second"


@dataclass
class _Plan:
    """New names: of identities and their display names by key, of cameras and tracks by the former name."""

    identities: dict[int, str] = field(default_factory=dict)
    display_names: dict[int, str] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    tracks: dict[str, str] = field(default_factory=dict)
    attributes: dict[int, dict[str, str]] = field(default_factory=dict)
    """All attributes of an identity, by its key."""
    collisions: list[Collision] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how many names of each kind are new."""
        return {name: len(value) for name, value in vars(self).items() if name != "collisions" and value}


def unify_names(store: Store) -> None:
    """Rename what has a name in another Unicode form, and log the names that must be left alone.

    Nothing is written and no other process waits if every name is composed already. Processes that start at
    the same time do this one after the other.
    """
    with store.read() as session:
        plan = _plan(session)
    if plan.counts():
        with store.change() as change:
            plan = _plan(change.session)  # another process may have been first
            _apply(change, plan)
        if plan.counts():
            logger.info("names are stored in one Unicode form now", **plan.counts())
    for collision in plan.collisions[:MAX_LOGGED]:
        logger.warning("one name in two spellings", names=str(collision))
    if len(plan.collisions) > MAX_LOGGED:
        logger.warning("more names in two spellings; reid check prints all", num=len(plan.collisions))


def find_collisions(session: Session) -> list[Collision]:
    """Return the names that differ in their Unicode form only."""
    return _plan(session).collisions


def _plan(session: Session) -> _Plan:
    plan = _Plan()
    ids = _renames(session, "identity", Identity.id, plan.collisions)
    plan.cameras = _renames(session, "camera", Item.camera_id, plan.collisions)
    plan.tracks = _renames(session, "track", Item.track_id, plan.collisions)
    for page in pages(ids):
        for key, name in session.execute(select(Identity.key, Identity.id).where(Identity.id.in_(page))):
            plan.identities[key] = ids[name]
    named = select(Identity.key, Identity.name).where(_is_not_ascii(session, Identity.name))
    for key, display_name in session.execute(named.execution_options(yield_per=ROWS)):
        if display_name is not None and (form := stored_form(display_name)) != display_name:
            plan.display_names[key] = form
    for key, owner, attributes in _attributes(session):
        after = one_form(attributes)
        if after != attributes:
            plan.attributes[key] = after
        plan.collisions += [
            Collision("attribute", names, owner) for _, names in _alike(after) if len(names) > 1
        ]
    return plan


def _is_not_ascii(session: Session, column: Text) -> ColumnElement[bool]:
    """Return the SQL condition for text with more bytes than characters, so that other text is not read."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    num_bytes = func.length(cast(column, LargeBinary)) if is_sqlite else func.octet_length(column)
    return num_bytes != func.length(column)


def _renames(session: Session, kind: Kind, column: Text, collisions: list[Collision]) -> dict[str, str]:
    """Return the new name of each name in a column that is not composed; names that collide are added."""
    names = session.scalars(select(column).where(_is_not_ascii(session, column)).distinct())
    odd = [name for name in names.yield_per(ROWS) if not is_normalized("NFC", name)]
    composed = {normalise_name(name) for name in odd}
    taken: set[str] = set()
    for page in pages(sorted(composed)):
        taken |= set(session.scalars(select(column).where(column.in_(page)).distinct()))
    renames: dict[str, str] = {}
    for form, alike in _alike([*sorted(taken), *odd]):
        if len(alike) > 1 or len(form) > MAX_NAME:
            collisions.append(Collision(kind, alike))
        elif alike != (form,):
            renames[alike[0]] = form
    return renames


def _alike(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Group names by their composed form."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalise_name(name), []).append(name)
    for form, alike in groups.items():
        yield form, tuple(sorted(alike, key=lambda name: (name != form, name)))


def _attributes(session: Session) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield key, id and attributes of the identities with an attribute that is not composed."""
    is_not_ascii = or_(_is_not_ascii(session, Attribute.name), _is_not_ascii(session, Attribute.value))
    described = select(Attribute.identity_key, Attribute.name, Attribute.value).where(is_not_ascii)
    keys = {
        key: None
        for key, name, value in session.execute(described.execution_options(yield_per=ROWS))
        if not (is_normalized("NFC", name) and is_normalized("NFC", value))
    }
    for page in pages(keys):
        owners = select(Identity).options(selectinload(Identity.attributes)).where(Identity.key.in_(page))
        for owner in session.scalars(owners):
            yield owner.key, owner.id, {row.name: row.value for row in owner.attributes}


def _apply(change: Transaction, plan: _Plan) -> None:
    session = change.session
    _set_by_key(session, "id", plan.identities)
    _set_by_key(session, "name", plan.display_names)
    _rename_column(session, Item.camera_id, plan.cameras)
    _rename_column(session, Item.track_id, plan.tracks)
    for key, after in plan.attributes.items():
        session.execute(delete(Attribute).where(Attribute.identity_key == key))
        session.add_all(Attribute(identity_key=key, name=name, value=value) for name, value in after.items())
    if plan.cameras or plan.tracks:
        change.note("rebuilt")  # every index has names of cameras and tracks


def _set_by_key(session: Session, column: Literal["id", "name"], new: dict[int, str]) -> None:
    for page in pages(new):
        session.execute(update(Identity), [{"key": key, column: new[key]} for key in page])


def _rename_column(session: Session, column: Text, renames: dict[str, str]) -> None:
    for names in pages(renames):
        rows = session.execute(select(Item.slot, column).where(column.in_(names))).all()
        for page in pages(rows):
            session.execute(update(Item), [{"slot": slot, column.key: renames[name]} for slot, name in page])

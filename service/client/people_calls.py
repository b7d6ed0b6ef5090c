"""People: list, describe, correct, delete and erase them, and undo corrections."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack
from urllib.parse import quote

from service.client.answers import Item
from service.client.calls import Call, Pages, nothing, reads
from service.client.people_answers import (
    Identity,
    Operation,
    ShownIdentity,
    ShownOperation,
    SuggestionsAnswer,
    Visit,
)
from service.client.requests import Filters, ItemFilters, given
from service.client.service_answers import Erasure


def list_identities(*, name: str | None = None, **filters: Unpack[Filters]) -> Pages[Identity]:
    """Read people, in the order in which they were made.

    Args:
        name: a part of the name, in any case.
        filters: which people. With filters for items, a person is listed if one of their items passes.

    Raises:
        Refused: a filter is invalid.
    """
    return Pages("/identities", "identities", Identity, given({"name": name, **filters}))


def get_identity(identity_id: str) -> Call[ShownIdentity]:
    """Read one person.

    Raises:
        Refused: there is no such identity.
    """
    return Call("GET", _path(identity_id), reads(ShownIdentity), is_safe=True)


def list_items_of(identity_id: str, **filters: Unpack[ItemFilters]) -> Pages[Item]:
    """Read the items of a person that pass the filters, in the order of enrolment.

    Raises:
        Refused: there is no such identity, or a filter is invalid.
    """
    return Pages(_path(identity_id, "/items"), "items", Item, given(filters))


def list_visits(
    identity_id: str, *, visit_gap_s: float | None = None, **filters: Unpack[ItemFilters]
) -> Pages[Visit]:
    """Read when and where a person was seen, the earliest visit first.

    Args:
        identity_id: the person.
        visit_gap_s: a longer gap between sightings by a camera, in seconds, begins a new visit; by default
            300.
        filters: which items are sightings.

    Raises:
        Refused: there is no such identity, or a filter is invalid.
    """
    fields = given({"visit_gap_s": visit_gap_s, **filters})
    return Pages(_path(identity_id, "/timeline"), "visits", Visit, fields)


def list_suggestions(
    *, of: str | None = None, min_score: float | None = None, limit: int = 20, **filters: Unpack[Filters]
) -> Call[SuggestionsAnswer]:
    """Read pairs of identities that are likely one person, the likeliest first.

    Args:
        of: only pairs with this identity.
        min_score: the least cosine of a pair, -1 to 1; by default 0.6.
        limit: the most pairs, 1 to 1,000.
        filters: the items by which the identities are compared.

    Raises:
        Refused: there is no such identity, there are too many, or other requests compare them.
    """
    params = given({"of": of, "min_score": min_score, "limit": limit, **filters})
    return Call("GET", "/identities/suggestions", reads(SuggestionsAnswer), {"params": params}, is_safe=True)


def create_identity(
    identity_id: str | None = None,
    *,
    name: str | None = None,
    notes: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Call[ShownIdentity]:
    """Make a person who has no items yet.

    Args:
        identity_id: the id; by default the service makes one.
        name: the name to show.
        notes: notes.
        attributes: attributes, which filters find.

    Raises:
        Refused: there is an identity of this id (code "identity_exists"), or a field is invalid.
    """
    fields = {"id": identity_id, "name": name, "notes": notes, "attributes": attributes}
    return Call("POST", "/identities", reads(ShownIdentity), {"json": given(fields)}, is_done_once=True)


def describe_identity(identity_id: str, **fields: Any) -> Call[ShownIdentity]:
    """Change the description of a person.

    Args:
        identity_id: the person.
        fields: new values of `name`, `notes` and `attributes`; None clears a field, and a field that is not
            given stays as it is.

    Raises:
        Refused: there is no such identity, or a field is invalid.
    """
    return Call("PATCH", _path(identity_id), reads(ShownIdentity), {"json": fields})


def delete_identity(identity_id: str) -> Call[None]:
    """Delete a person with their items and crops. Traces may stay in files; see `erase_identity`.

    Raises:
        Refused: there is no such identity.
    """
    return Call("DELETE", _path(identity_id), nothing)


def erase_identity(identity_id: str) -> Call[Erasure]:
    """Delete a person so that no trace of them stays on the disk of the service.

    Returns:
        The receipt.

    Raises:
        Refused: there is no such identity.
    """
    return Call("DELETE", _path(identity_id), reads(Erasure), {"params": {"mode": "erase"}})


def merge(identity_id: str, source_ids: Sequence[str]) -> Call[ShownOperation]:
    """Give all items of other identities to this one. An undo brings the others back.

    Raises:
        Refused: there is no such identity.
    """
    return _correction(identity_id, "/merge", {"source_ids": list(source_ids)})


def split(
    identity_id: str, item_ids: Sequence[str], *, new_identity_id: str | None = None
) -> Call[ShownOperation]:
    """Give items of this identity to another one.

    Args:
        identity_id: the identity that the items belong to.
        item_ids: the items, 1 to 1,000.
        new_identity_id: the identity that gets the items; by default a new one.

    Raises:
        Refused: there is no such identity or item, or an item belongs to another identity.
    """
    return _correction(
        identity_id, "/split", given({"item_ids": list(item_ids), "identity_id": new_identity_id})
    )


def reject(identity_id: str, item_ids: Sequence[str]) -> Call[ShownOperation]:
    """Record that items do not show this person; items that belong to them move to new identities.

    Raises:
        Refused: there is no such identity or item.
    """
    return _correction(identity_id, "/reject", {"item_ids": list(item_ids)})


def list_operations() -> Pages[Operation]:
    """Read merges, splits, relabels and rejections, the newest first."""
    return Pages("/operations", "operations", Operation, {})


def get_operation(operation_id: str) -> Call[ShownOperation]:
    """Read one merge, split, relabel or rejection.

    Raises:
        Refused: there is no such operation.
    """
    return Call("GET", f"/operations/{operation_id}", reads(ShownOperation), is_safe=True)


def undo(operation_id: str) -> Call[ShownOperation]:
    """Undo a merge, split, relabel or rejection.

    Raises:
        Refused: there is no such operation, or a later change prevents the undo (code "cannot_undo").
    """
    return Call("POST", f"/operations/{operation_id}/undo", reads(ShownOperation), is_done_once=True)


def list_erasures() -> Pages[Erasure]:
    """Read the receipts of all erasures, oldest first."""
    return Pages("/erasures", "erasures", Erasure, {})


def _correction(identity_id: str, what: str, body: Mapping[str, Any]) -> Call[ShownOperation]:
    return Call("POST", _path(identity_id, what), reads(ShownOperation), {"json": body}, is_done_once=True)


def _path(identity_id: str, what: str = "") -> str:
    """Return the path of an identity, whose id may have any characters.

    >>> _path("anna/smith", "/items")
    '/identities/anna%2Fsmith/items'
    """
    return f"/identities/{quote(identity_id, safe='')}{what}"

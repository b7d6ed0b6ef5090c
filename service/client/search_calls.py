"""Search and verify."""

import json
from collections.abc import Sequence
from typing import Unpack

from service.client.answers import BatchAnswer, SearchAnswer, VerifyAnswer
from service.client.calls import Call, reads
from service.client.requests import (
    BatchedSearch,
    GroupBy,
    Picture,
    SearchFields,
    field_parts,
    given,
    image_parts,
)


def search(
    pictures: Sequence[Picture] = (),
    *,
    top_k: int = 10,
    group_by: GroupBy = "identity",
    min_score: float | None = None,
    **more: Unpack[SearchFields],
) -> Call[SearchAnswer]:
    """Search for a person, by pictures, by what is stored, or by both.

    Args:
        pictures: up to 16 images of the person: files, or the bytes of files.
        top_k: the most matches to return, 1 to 1,000.
        group_by: what to rank: identities, tracks, cameras with their one best item, or items.
        min_score: the lowest score of a match, -1 to 1.
        more: who is looked for beside the pictures, such as `item_id`, and which items to search.

    Returns:
        The matches, best first.

    Raises:
        OSError: a file cannot be read.
        Refused: an image cannot be used, there is no such item or identity, or a field is invalid.
    """
    fields = given({"top_k": top_k, "group_by": group_by, "min_score": min_score, **more})
    body = {"files": [*field_parts(fields), *image_parts("images", pictures)]}
    return Call("POST", "/search", reads(SearchAnswer), body, is_safe=True)


def search_batch(queries: Sequence[BatchedSearch], pictures: Sequence[Picture] = ()) -> Call[BatchAnswer]:
    """Answer up to 100 searches in one request, whose pictures are embedded together.

    Args:
        queries: the searches, each with the places of its pictures in `images`.
        pictures: up to 200 images: files, or the bytes of files.

    Returns:
        The answers, in the order of the queries.

    Raises:
        OSError: a file cannot be read.
        Refused: one of the searches is refused; then none is answered.
    """
    asked = {"queries": [{**given(one), "filter": given(one.get("filter", {}))} for one in queries]}
    if not pictures:
        return Call("POST", "/search/batch", reads(BatchAnswer), {"json": asked}, is_safe=True)
    body = {"files": [*field_parts({"queries": json.dumps(asked)}), *image_parts("images", pictures)]}
    return Call("POST", "/search/batch", reads(BatchAnswer), body, is_safe=True)


def verify(
    pictures: Sequence[Picture], *, others: Sequence[Picture] = (), identity_id: str | None = None
) -> Call[VerifyAnswer]:
    """Compare crops of one person with other crops, or with an identity of the gallery.

    Args:
        pictures: images of one person.
        others: images of one person to compare with.
        identity_id: the identity to compare with, instead of `others`.

    Returns:
        The score, and the decision if the active model version has thresholds.

    Raises:
        OSError: a file cannot be read.
        Refused: an image cannot be used, there is no such identity, or not exactly one of `others` and
            `identity_id` is given.
    """
    files = [*image_parts("images", pictures), *image_parts("other_images", others)]
    body = {"files": files, "data": given({"identity_id": identity_id})}
    return Call("POST", "/verify", reads(VerifyAnswer), body, is_safe=True)

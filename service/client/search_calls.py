"""Search and verify."""

from collections.abc import Sequence
from typing import Unpack

from service.client.answers import SearchAnswer, VerifyAnswer
from service.client.calls import Call, reads
from service.client.requests import Filters, GroupBy, Picture, given, image_parts


def search(
    pictures: Sequence[Picture],
    *,
    top_k: int = 10,
    group_by: GroupBy = "identity",
    min_score: float | None = None,
    **filters: Unpack[Filters],
) -> Call[SearchAnswer]:
    """Search for a person.

    Args:
        pictures: 1 to 16 images of the person: files, or the bytes of files.
        top_k: the most matches to return, 1 to 1,000.
        group_by: what to rank: identities, tracks, cameras with their one best item, or items.
        min_score: the lowest score of a match, -1 to 1.
        filters: which items to search.

    Returns:
        The matches, best first.

    Raises:
        OSError: a file cannot be read.
        Refused: an image cannot be used, or a filter is invalid.
    """
    fields = {"top_k": top_k, "group_by": group_by, "min_score": min_score, **filters}
    body = {"files": image_parts("images", pictures), "data": given(fields)}
    return Call("POST", "/search", reads(SearchAnswer), body, is_safe=True)


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

"""POST /verify: is this the same person?"""

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, CheckClient, ReadyServing, RequestId
from service.api.routes.search import MAX_IMAGES, Images
from service.api.schemas.search import VerifyAnswer
from service.errors import Fault, InvalidRequest
from service.gallery.metadata import OptionalSoughtName
from service.search.verify import verify_crops, verify_identity

router = APIRouter(tags=["search"])

OtherImages = Annotated[
    list[UploadFile],
    File(max_length=MAX_IMAGES, description="1 to 16 crops of one person to compare with."),
]


@router.post("/verify", responses=responses(400, 404, 413, 415, 422, 503))
def post_verify(
    images: Images,
    serving: ReadyServing,
    request_id: RequestId,
    check_client: CheckClient,
    caller: AnyCaller,
    other_images: OtherImages = [],  # noqa: B006
    identity_id: Annotated[
        OptionalSoughtName,
        Form(description="Or an identity to compare with, by the mean embedding of its items."),
    ] = None,
) -> VerifyAnswer:
    """Compare crops of one person with other crops, or with an identity."""
    uploads = [image.file for image in images]
    if bool(other_images) == (identity_id is not None):
        fault = Fault(("body", "other_images"), "give either other_images or identity_id")
        raise InvalidRequest(fault, detail="give other_images or identity_id, and not both")
    if identity_id is not None:
        compared = verify_identity(serving, uploads, identity_id, check_client, caller.cameras)
        return VerifyAnswer.of(compared, request_id)
    verified = verify_crops(serving, uploads, [image.file for image in other_images], check_client)
    return VerifyAnswer.of(verified, request_id)

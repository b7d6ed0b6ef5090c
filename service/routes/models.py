"""/models: the networks that this gallery knows, and which of them is in service."""

from typing import Annotated

from fastapi import APIRouter, File, Response, UploadFile

from service.evaluation import request_evaluation
from service.jobs import Progress
from service.problems import responses
from service.registry import find_model, list_models, register
from service.routes.dependencies import ReadyServing, RequestId, TheActivations
from service.schemas import JobAnswer, ModelAnswer, ModelsAnswer, ModelVersion

router = APIRouter(prefix="/models", tags=["models"])

Checkpoint = Annotated[UploadFile, File(description="A .safetensors checkpoint with a card.")]


@router.get("", responses=responses(503))
def get_models(serving: ReadyServing, request_id: RequestId) -> ModelsAnswer:
    """List the registered model versions, oldest first."""
    models = [ModelVersion.of(known) for known in list_models(serving)]
    return ModelsAnswer(request_id=request_id, model_version=serving.current().version, models=models)


@router.get("/{version}", responses=responses(404, 422, 503))
def get_model(version: str, serving: ReadyServing, request_id: RequestId) -> ModelAnswer:
    """Show one registered model version."""
    known = ModelVersion.of(find_model(serving, version))
    return ModelAnswer(**known.model_dump(), request_id=request_id)


@router.post(
    "",
    status_code=201,
    responses={200: {"model": ModelAnswer, "description": "Known already"}, **responses(400, 413, 422, 503)},
)
def post_model(
    checkpoint: Checkpoint, response: Response, serving: ReadyServing, request_id: RequestId
) -> ModelAnswer:
    """Register a checkpoint; it is checked and tried first. The same content again answers 200."""
    known, is_new = register(serving, checkpoint.file)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/models/{known.row.version}"
    return ModelAnswer(**ModelVersion.of(known).model_dump(), request_id=request_id)


@router.post("/{version}/activate", status_code=202, responses=responses(404, 409, 422, 503))
def post_activation(
    version: str,
    response: Response,
    _serving: ReadyServing,
    activations: TheActivations,
    request_id: RequestId,
) -> JobAnswer:
    """Embed the gallery with this version in the background, then switch to it; the job says how far."""
    job = activations.start(version)
    response.headers["Location"] = f"/jobs/{job.id}"
    return JobAnswer.of(Progress(job, 0, []), request_id)


@router.post("/{version}/evaluate", status_code=202, responses=responses(404, 422, 503))
def post_evaluation(
    version: str, response: Response, serving: ReadyServing, request_id: RequestId
) -> JobAnswer:
    """Judge a version and the active one on the gallery's labelled items; the job's result compares them.

    Labelled are identities with items of two cameras, or of two tracks. One that is under way is not begun
    again: its job is answered.
    """
    job = request_evaluation(serving, version)
    response.headers["Location"] = f"/jobs/{job.id}"
    return JobAnswer.of(Progress(job, 0, []), request_id)

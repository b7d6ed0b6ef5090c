"""/models: register, evaluate, activate and delete model versions."""

from typing import Annotated

from fastapi import APIRouter, Body, File, Response, UploadFile
from fastapi.responses import FileResponse

from service.api.problems import responses
from service.api.proxies import url_path
from service.api.routes.dependencies import OpenStore, ReadyStore, RequestId
from service.api.schemas.jobs import JobAnswer
from service.api.schemas.models import Activation, ModelAnswer, ModelsAnswer, ModelVersion
from service.store.tables import Job
from service.versions.activation_queue import queue_activation, queue_rollback
from service.versions.evaluation import request_evaluation
from service.versions.registry import delete_model, find_active, find_file, find_model, list_models, register

router = APIRouter(prefix="/models", tags=["models"])

Checkpoint = Annotated[UploadFile, File(description="A .safetensors checkpoint with a card.")]


@router.get("", responses=responses(503))
def get_models(store: OpenStore, request_id: RequestId) -> ModelsAnswer:
    """List the registered model versions, oldest first."""
    models = [ModelVersion.of(known) for known in list_models(store)]
    active = find_active(store).row.version
    return ModelsAnswer(request_id=request_id, model_version=active, models=models)


@router.get("/active", responses=responses(503))
def get_active(store: OpenStore, request_id: RequestId) -> ModelAnswer:
    """Show the active model version."""
    return ModelAnswer.of(find_active(store), request_id=request_id)


@router.get("/{version}", responses=responses(404, 422, 503))
def get_model(version: str, store: OpenStore, request_id: RequestId) -> ModelAnswer:
    """Show one registered model version."""
    return ModelAnswer.of(find_model(store, version), request_id=request_id)


@router.get(
    "/{version}/file",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(404, 422, 503)},
)
def get_model_file(version: str, store: OpenStore) -> FileResponse:
    """Return the checkpoint file of a version as it was registered, for example to train from it."""
    path = find_file(store, version)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": ModelAnswer, "description": "The version was registered already"},
        **responses(400, 413, 422, 503, 507),
    },
)
def post_model(
    checkpoint: Checkpoint, response: Response, store: OpenStore, request_id: RequestId
) -> ModelAnswer:
    """Register a checkpoint, after it was checked and an image was embedded with it.

    If the same content is registered already, the answer is 200, and a lost checkpoint file is restored.
    """
    known, is_new = register(store, checkpoint.file)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = url_path(f"/models/{known.row.version}")
    return ModelAnswer.of(known, request_id=request_id)


@router.delete("/{version}", status_code=204, responses=responses(404, 409, 422, 503))
def delete_one(version: str, store: OpenStore) -> None:
    """Delete a version that is not in use, with its file and its embeddings."""
    delete_model(store, version)


@router.post("/rollback", status_code=202, responses=responses(409, 503))
def post_rollback(response: Response, store: ReadyStore, request_id: RequestId) -> JobAnswer:
    """Activate the version that was active before, immediately if it has an embedding of every item."""
    return _accepted(queue_rollback(store), response, request_id)


@router.post("/{version}/activate", status_code=202, responses=responses(400, 404, 409, 413, 422, 503, 507))
def post_activation(
    version: str,
    response: Response,
    store: ReadyStore,
    request_id: RequestId,
    how: Annotated[Activation | None, Body()] = None,
) -> JobAnswer:
    """Embed the gallery with this version in a background job, then switch to this version."""
    job = queue_activation(store, version, (how or Activation()).to_options())
    return _accepted(job, response, request_id)


@router.post("/{version}/evaluate", status_code=202, responses=responses(404, 422, 503))
def post_evaluation(version: str, response: Response, store: ReadyStore, request_id: RequestId) -> JobAnswer:
    """Evaluate a version and the active one on the labelled items; the result of the job compares them.

    An item is labelled if its identity has items of two cameras, or of two tracks. If an evaluation of the
    version is under way, its job is returned and no other is started.
    """
    return _accepted(request_evaluation(store, version), response, request_id)


def _accepted(job: Job, response: Response, request_id: str) -> JobAnswer:
    response.headers["Location"] = url_path(f"/jobs/{job.id}")
    return JobAnswer.queued(job, request_id)

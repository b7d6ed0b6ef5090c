"""/session: sign a browser in with a key, say who is signed in, and sign out."""

from fastapi import APIRouter, Request, Response

from service.api.access import COOKIE, token_of
from service.api.audit import name_caller
from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, OpenStore, RequestId
from service.api.schemas.session import SessionAnswer, SignInOrder
from service.keys.sign_ins import LASTS, sign_in, sign_out

router = APIRouter(prefix="/session", tags=["operations"])


@router.post("", responses=responses(400, 401, 413, 422, 503))
def post_session(
    order: SignInOrder, request: Request, response: Response, store: OpenStore, request_id: RequestId
) -> SessionAnswer:
    """Sign this browser in with a key, for 12 hours, by a cookie that no script can read."""
    caller, token = sign_in(store, order.key.strip())
    name_caller(caller)
    response.set_cookie(
        COOKIE,
        token,
        max_age=round(LASTS.total_seconds()),
        path=_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionAnswer.of(caller, request_id)


@router.get("", responses=responses(401, 503))
async def get_session(caller: AnyCaller, request_id: RequestId) -> SessionAnswer:
    """Say who sends this request."""
    return SessionAnswer.of(caller, request_id)


@router.delete("", status_code=204, responses=responses(503))
def delete_session(request: Request, response: Response, store: OpenStore) -> None:
    """Sign this browser out; its cookie stands for nothing any more.

    The browser also deletes the pictures of this service that it has kept, where it obeys Clear-Site-Data.
    """
    token = token_of(request.headers)
    if token is not None:
        sign_out(store, token)
    response.delete_cookie(COOKIE, path=_path(request), httponly=True, samesite="strict")
    response.headers["Clear-Site-Data"] = '"cache"'


def _path(request: Request) -> str:
    """Return the path below which the cookie is sent: that of this service, which may share its host."""
    return f"{request.scope.get('root_path', '')}/"

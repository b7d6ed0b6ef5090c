"""Who may send a request: finds the caller by a key or by the cookie of the page, and refuses the others."""

from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from threading import Lock
from typing import Any

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.audit import entry_of, outcome_of
from service.api.origins import LOOPBACK, is_known
from service.api.problems import failure_problem, http_problem, responses, service_problem
from service.api.rules import RULES, Rule
from service.audit.log import Audit
from service.errors import KeyInvalid, KeyRequired, ServiceError
from service.keys.callers import ANYBODY, Caller, acting
from service.keys.keys import find_caller, has_keys, note_uses
from service.keys.sign_ins import find_signed_in
from service.store.clock import Clock
from service.store.failures import to_service_error
from service.store.store import Store

COOKIE = "reid_session"
MAX_LOOKING = 4
"""Threads that look keys up at a time. They are apart from the threads of the endpoints."""

KNOWN_S = 1.0
"""A caller who sends the rest of a body so many seconds after its head, or later, is looked up again."""

BY_PROXY = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a request that a proxy has handed on, perhaps from elsewhere."""

HOW_TO_SEND = "send it as `Authorization: Bearer reid_...` or X-API-Key, or set REID_API_KEY for `reid`"
NO_KEY_YET = (
    "no key was made yet, so only this machine itself is answered; run `reid keys create --role admin --name "
    "NAME` on the machine of the service, and send the key"
)


class Callers:
    """Finds the caller of each request, for the whole process.

    Keys are read from the database for each request, so a key that any process revokes is refused at once.

    Args:
        store: the gallery.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_closed = False
        self._used: dict[str, datetime] = {}
        self._lock = Lock()
        self._threads: CapacityLimiter | None = None

    async def of(self, scope: Scope) -> Caller:
        """Return the caller of a request.

        Raises:
            KeyRequired: it has neither a key nor a cookie, and not everybody may send it.
            KeyInvalid: its key, or its cookie, is not valid.
        """
        headers = Headers(scope=scope)
        key, token = key_of(headers), token_of(headers)
        self._threads = self._threads or CapacityLimiter(MAX_LOOKING)
        is_here = comes_from_here(scope, headers)
        return await to_thread.run_sync(lambda: self.find(key, token, is_here=is_here), limiter=self._threads)

    def find(self, key: str | None, token: str | None, *, is_here: bool) -> Caller:
        """Return the caller who sends a key, or the token of a cookie, or neither.

        Args:
            key: the key.
            token: the token of a browser; it does not count beside a key.
            is_here: whether the request comes from this machine.

        Raises:
            KeyRequired: neither was sent, and the gallery has a key, or the request comes from elsewhere.
            KeyInvalid: the key, or the token, is not valid.
        """
        if key is not None:
            caller = find_caller(self._store, key)
        elif token is not None and self._has_keys():
            caller = find_signed_in(self._store, token)
        elif self._has_keys():
            raise KeyRequired(f"this service asks for a key; {HOW_TO_SEND}")
        elif is_here or self._store.settings.allow_open:
            return ANYBODY
        else:
            raise KeyRequired(NO_KEY_YET)
        with self._lock:
            self._used[caller.key_id or ""] = self._store.clock.now()
        return caller

    @property
    def clock(self) -> Clock:
        """Return the clock of the process."""
        return self._store.clock

    def note_uses(self) -> None:
        """Store when keys were used last; called once a minute, and when the process stops."""
        with self._lock:
            used, self._used = self._used, {}
        note_uses(self._store, used)

    def _has_keys(self) -> bool:
        """Return whether the gallery has or had a key; once it had one, it is never open again."""
        if not self._is_closed:
            with self._store.read() as session:
                self._is_closed = has_keys(session)
        return self._is_closed


class Access:
    """Answers 401 or 403 to a caller who may not send this request, before its body is read.

    A body may take long. When its end has come, the caller is looked up once more, so that nothing is done
    with a key that was revoked or rotated meanwhile.

    The scope gets the `caller` of the request if its rule asks for one.

    Args:
        app: the wrapped app.
        callers: finds the caller.
        audit: is told whose key was refused something.
        require_open: raises NotReady while the database is being opened.
    """

    def __init__(
        self, app: ASGIApp, callers: Callers, audit: Audit, require_open: Callable[[], None]
    ) -> None:
        self._app = app
        self._audit = audit
        self._callers = callers
        self._require_open = require_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path and not path.startswith("/"):  # behind a prefix, `*` would end another path than the rule's
            refused = http_problem(scope["state"]["request_id"], 400, "the path does not begin with /")
            await refused(scope, receive, send)
            return
        rule: Rule = scope["state"]["rule"]
        caller = ANYBODY
        try:
            if rule.role is not None:
                self._require_open()
                caller = scope["state"]["caller"] = await self._callers.of(scope)
                caller.require(rule.role)
                if rule.cameras == "none":
                    caller.require_all_cameras()
        except ServiceError as error:
            if "caller" in scope["state"] and rule.action is not None:
                entry = entry_of(scope, self._callers.clock)
                entry.outcome = outcome_of(error.status)
                self._audit.queue(entry)
            await service_problem(scope["state"]["request_id"], error)(scope, receive, send)
        except (SQLAlchemyError, OSError) as error:
            await failure_problem(scope["state"]["request_id"], error)(scope, receive, send)
        else:
            with acting(caller):
                await self._app(scope, receive if rule.role is None else self._again(scope, receive), send)

    def _again(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that looks the caller up again with the last piece of a body that took long."""
        found_s = self._callers.clock.steady_s()

        async def receive_and_look() -> Message:
            message = await receive()
            is_whole = message["type"] == "http.request" and not message.get("more_body", False)
            if is_whole and self._callers.clock.steady_s() - found_s >= KNOWN_S:
                try:
                    await self._callers.of(scope)  # whoever reads the body may answer the refusal
                except SQLAlchemyError as error:
                    raise to_service_error(error) or error from error
            return message

        return receive_and_look


def document_access(document: dict[str, Any]) -> None:
    """Add to the OpenAPI document how to send a key, and what each operation asks of its caller."""
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key, which `reid keys create` shows."},
        "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "page": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "POST /session sets it."},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rule = RULES[method.upper(), path]
            operation["security"] = []
            if rule.role is not None:
                operation["security"] = [{scheme: []} for scheme in document["components"]["securitySchemes"]]
                operation["x-role"], operation["x-cameras"] = rule.role.value, rule.cameras
                for status, described in responses(401, 403).items():
                    operation["responses"].setdefault(str(status), described)


def key_of(headers: Headers) -> str | None:
    """Return the key that a request sends, or None.

    Raises:
        KeyInvalid: it sends several keys, or an Authorization of another kind.
    """
    sent = headers.getlist("x-api-key")
    for value in headers.getlist("authorization"):
        kind, _, key = value.partition(" ")
        if kind.lower() != "bearer":
            raise KeyInvalid(f"Authorization is not a Bearer key; {HOW_TO_SEND}")
        sent.append(key.strip())
    if len(set(sent)) > 1:
        raise KeyInvalid("the request sends several keys; send one")
    return sent[0] if sent else None


def token_of(headers: Headers) -> str | None:
    """Return the token in the cookie of the page, or None.

    Of several cookies of this name the first counts: browsers send the cookie of the longest path first, so
    another service of the same host cannot put its own before that of the page below a prefix.
    """
    pairs = (one.partition("=") for one in headers.get("cookie", "").split(";"))
    return next((value.strip() for name, _, value in pairs if name.strip() == COOKIE), None) or None


def comes_from_here(scope: Scope, headers: Headers) -> bool:
    """Return whether a request comes from this machine, and no proxy has handed it on."""
    is_local = _is_loopback(scope["client"][0]) and is_known(headers.get("host", ""), LOOPBACK)
    return is_local and not any(header in headers for header in BY_PROXY)


def _is_loopback(address: str) -> bool:
    """Return whether an address is of this machine.

    >>> [_is_loopback(one) for one in ("127.0.0.1", "::ffff:127.0.0.1", "::1", "10.0.0.1", "unknown")]
    [True, True, True, False, False]
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback

"""What each endpoint asks of its caller: the one table of roles, camera limits, turns and audit actions.

The table stands in front of the endpoints, so that a caller who may not do something is refused before the
body of the request is read. An endpoint that the table does not have is refused to everybody, and a test
fails: whoever adds an endpoint must add its row.
"""

from typing import Literal, NamedTuple

from starlette.routing import compile_path

from service.keys.callers import Role


class Rule(NamedTuple):
    """What an endpoint asks of its caller.

    Attributes:
        role: the least role; None if the endpoint needs no key.
        cameras: what a key that is limited to some cameras gets. "own": only what those cameras have seen.
            "none": nothing, because the endpoint concerns all cameras. "any": everything, because the
            endpoint concerns no camera.
        turns: the class of `Admission`; None if the request waits for no turn.
        action: what the audit calls it; None if a request leaves no row.
    """

    role: Role | None
    cameras: Literal["own", "none", "any"]
    turns: Literal["search", "enrolment", "change", "reading", "session"] | None
    action: str | None

    @property
    def is_done_once(self) -> bool:
        """Whether a POST that is sent again with its Idempotency-Key is not done again."""
        return self.role is not None and self.turns != "search"


PUBLIC = Rule(None, "any", None, None)
"""The rule of the probes, and of files that are the same for everybody."""

READ_OWN = Rule(Role.reader, "own", "reading", None)
READ_ANY = Rule(Role.reader, "any", "reading", None)
READ_ALL = Rule(Role.reader, "none", "reading", None)
UNLISTED = READ_ANY
"""The rule of a request that no endpoint answers: it is 404 or 405 to whoever has a key, else 401."""


def _corrects(action: str) -> Rule:
    return Rule(Role.operator, "none", "change", action)


def _only_admin(action: str) -> Rule:
    return Rule(Role.admin, "none", "change", action)


RULES: dict[tuple[str, str], Rule] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/livez"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/oauth2-redirect"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/version"): Rule(Role.reader, "any", None, None),
    ("GET", "/metrics"): Rule(Role.reader, "none", None, None),  # no turn: an overload has to be seen
    ("POST", "/session"): Rule(None, "any", "session", "sign_in"),
    ("GET", "/session"): READ_ANY,
    ("DELETE", "/session"): Rule(None, "any", "session", None),
    ("POST", "/search"): Rule(Role.reader, "own", "search", "search"),
    ("POST", "/search/batch"): Rule(Role.reader, "own", "search", "search"),
    ("POST", "/verify"): Rule(Role.reader, "own", "search", "verify"),
    ("POST", "/gallery"): Rule(Role.operator, "own", "enrolment", "enrol"),
    ("GET", "/gallery"): READ_OWN,
    ("POST", "/gallery/delete"): _only_admin("delete_items"),
    ("GET", "/gallery/{item_id}"): READ_OWN,
    ("PATCH", "/gallery/{item_id}"): Rule(Role.operator, "own", "change", "correct_item"),
    ("DELETE", "/gallery/{item_id}"): _only_admin("delete_item"),
    ("GET", "/gallery/{item_id}/image"): READ_OWN,
    ("GET", "/gallery/{item_id}/thumbnail"): READ_OWN,
    ("GET", "/cameras"): READ_OWN,
    ("GET", "/stats"): READ_OWN,
    ("GET", "/identities"): READ_OWN,
    ("POST", "/identities"): _corrects("create_identity"),
    ("GET", "/identities/suggestions"): READ_OWN,
    ("GET", "/identities/{identity_id}"): READ_OWN,
    ("PATCH", "/identities/{identity_id}"): _corrects("describe_identity"),
    ("DELETE", "/identities/{identity_id}"): _only_admin("delete_identity"),
    ("GET", "/identities/{identity_id}/items"): READ_OWN,
    ("GET", "/identities/{identity_id}/timeline"): READ_OWN,
    ("POST", "/identities/{identity_id}/merge"): _corrects("merge"),
    ("POST", "/identities/{identity_id}/split"): _corrects("split"),
    ("POST", "/identities/{identity_id}/reject"): _corrects("reject"),
    ("GET", "/operations"): READ_ALL,
    ("GET", "/operations/{operation_id}"): READ_ALL,
    ("POST", "/operations/{operation_id}/undo"): _corrects("undo"),
    ("GET", "/erasures"): Rule(Role.admin, "none", "reading", None),
    ("GET", "/audit"): Rule(Role.admin, "none", "reading", None),
    ("GET", "/audit/queries/{sha256}"): Rule(Role.admin, "none", "reading", None),
    ("GET", "/retention"): READ_ALL,
    ("POST", "/retention/confirm"): _only_admin("confirm_expiry"),
    ("GET", "/models"): READ_ALL,
    ("GET", "/models/active"): READ_ALL,
    ("GET", "/models/{version}"): READ_ALL,
    ("GET", "/models/{version}/file"): Rule(Role.admin, "any", "reading", None),
    ("POST", "/models"): _only_admin("register_model"),
    ("DELETE", "/models/{version}"): _only_admin("delete_model"),
    ("POST", "/models/rollback"): _only_admin("roll_back"),
    ("POST", "/models/{version}/activate"): _only_admin("activate_model"),
    ("POST", "/models/{version}/evaluate"): _only_admin("evaluate_model"),
    ("GET", "/jobs"): READ_OWN,
    ("GET", "/jobs/{job_id}"): READ_OWN,
    ("DELETE", "/jobs/{job_id}"): Rule(Role.operator, "own", "change", "cancel_job"),
}
"""The rule of each endpoint. A path with fixed words stands before one that has a variable in their place."""

PUBLIC_FOLDERS = ("/web/", "/static-offline-docs/")
"""The files of the page and of /docs."""

_PATTERNS = [(method, compile_path(path)[0], rule) for (method, path), rule in RULES.items()]


def rule_of(method: str, path: str) -> Rule:
    """Return the rule of a request.

    >>> rule_of("GET", "/gallery/17/image").turns, rule_of("POST", "/models/rollback").action
    ('reading', 'roll_back')
    >>> rule_of("GET", "/web/style.css") == PUBLIC, rule_of("PUT", "/gallery") == UNLISTED
    (True, True)
    """
    if method == "GET" and path.startswith(PUBLIC_FOLDERS):
        return PUBLIC
    return next((rule for known, regex, rule in _PATTERNS if known == method and regex.match(path)), UNLISTED)

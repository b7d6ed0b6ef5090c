"""Read and verify the audit of a gallery."""

from typing import Any

import httpx

from keyed import store_of
from service.audit.chain import Head
from service.audit.secret import open_secret
from service.audit.verification import Verified, verify
from service.settings import Settings


def verified(settings: Settings, expected: Head | None = None) -> Verified:
    """Walk over the chain of a gallery."""
    secret = open_secret(settings)
    with store_of(settings) as store, store.read() as session:
        return verify(session, {secret.name: secret}, expected)


def rows_of(client: httpx.Client, **wanted: Any) -> list[dict[str, Any]]:
    """Read all rows."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/audit", params={**wanted, "cursor": cursor, "limit": 7})
        assert page.status_code == 200, page.text
        rows += page.json()["rows"]
        cursor = page.json()["next_cursor"]
    return rows

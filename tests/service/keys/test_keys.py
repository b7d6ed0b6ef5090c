"""Keys: the first one closes the gallery, and a key that was revoked, rotated or has expired is refused."""

import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from keyed import as_key, make_key, store_of
from live_server import crop, enroll, images, serve, wait_until
from service.errors import InvalidRequest, KeyExists, KeyInvalid
from service.keys.callers import Role
from service.keys.keys import create_key, list_keys, revoke_key, rotate_key
from service.keys.sign_ins import find_signed_in, sign_in
from service.settings import Settings
from service.store.key_tables import SignIn
from service.store.store import Store
from set_clock import SetClock

CAPTURED = {"files": images(crop(1)), "data": {"identity_id": "anna"}}


def code_of(answer: httpx.Response) -> str | None:
    return None if answer.is_success else str(answer.json()["code"])


def test_the_first_key_closes_a_running_gallery(settings: Settings) -> None:
    with serve(settings) as client:
        assert client.get("/session").json() | {"request_id": ""} == {
            "request_id": "",
            "is_open": True,
            "name": "anybody",
            "role": "admin",
            "cameras": None,
        }
        key = make_key(settings, "reader")
        assert code_of(client.get("/gallery")) == "key_required"
        with as_key(client, key) as keyed:
            assert code_of(keyed.get("/gallery")) is None
            assert keyed.get("/session").json()["role"] == "reader"
        with store_of(settings) as store:
            revoke_key(store, "the reader")
        assert (
            code_of(client.get("/gallery")) == "key_required"
        )  # a gallery that had a key is never open again
        for probe in ("/livez", "/readyz"):
            assert client.get(probe, headers={"Host": "10.0.0.9"}).status_code == 200


def test_a_probe_without_a_key_learns_nothing_of_the_gallery(settings: Settings) -> None:
    with serve(settings) as client:
        enroll(client, crop(1), camera_id="door")
        shown = client.get("/readyz").json()
        assert (shown["status"], shown["num_items"]) == ("ready", 1)
        loaded = {name: shown[name] for name in ("status", "model_version", "runtime")}
        reader, limited = make_key(settings, "reader"), make_key(settings, "operator", cameras=["hall"])
        for refused in ({}, {"X-API-Key": "x"}, {"Cookie": "reid_session=x"}):
            assert client.get("/readyz", headers=refused).json() == {"status": "ready"}
        assert client.get("/readyz", headers={"X-API-Key": limited}).json() == loaded
        assert client.get("/readyz", headers={"X-API-Key": reader}).json().keys() == shown.keys()
        for path in ("/models", "/models/active", f"/models/{shown['model_version']}"):
            assert code_of(client.get(path, headers={"X-API-Key": reader})) is None
            assert code_of(client.get(path, headers={"X-API-Key": limited})) == "camera_forbidden"


@pytest.fixture
def keyed(settings: Settings) -> Iterator[tuple[httpx.Client, str]]:
    """A service, and a reader's key of it."""
    with serve(settings) as client:
        yield client, make_key(settings, "reader", "anna")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer KEY"},
        {"Authorization": "bearer   KEY"},
        {"X-API-Key": "KEY"},
        {"X-API-Key": "KEY", "Authorization": "Bearer KEY"},
    ],
)
def test_a_key_comes_in_a_header(keyed: tuple[httpx.Client, str], headers: dict[str, str]) -> None:
    client, key = keyed
    sent = {name: value.replace("KEY", key) for name, value in headers.items()}
    assert code_of(client.get("/gallery", headers=sent)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer reid_000000000000_" + 64 * "0"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer KEYx"},
        {"X-API-Key": "KEY", "Authorization": "Bearer reid_000000000000_" + 64 * "0"},
        {"X-API-Key": "é"},
        {"X-API-Key": ""},
        {"Cookie": "reid_session=KEY"},
        {"Cookie": "reid_session=x"},
    ],
)
def test_a_wrong_key_is_refused(keyed: tuple[httpx.Client, str], headers: dict[str, str]) -> None:
    client, key = keyed
    sent = [(name.encode(), value.replace("KEY", key).encode()) for name, value in headers.items()]
    answer = client.get("/gallery", headers=sent)
    assert code_of(answer) == "key_invalid"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_key_in_the_url_does_not_count(keyed: tuple[httpx.Client, str]) -> None:
    client, key = keyed
    for name in ("key", "api_key", "access_token", "X-API-Key"):
        assert code_of(client.get("/gallery", params={name: key})) == "key_required"


def test_a_key_is_refused_at_once_when_it_is_rotated_revoked_or_expired(settings: Settings) -> None:
    with serve(settings) as client, store_of(settings) as store:
        old = make_key(settings, "admin", "anna")
        row, new = rotate_key(store, "anna")
        moment = datetime.now(UTC)
        late = make_key(settings, "admin", "late", expires_at=moment - timedelta(seconds=1))
        soon = make_key(settings, "admin", "soon", expires_at=moment + timedelta(hours=1))
        told = {}
        for name, key in {"old": old, "new": new, "late": late, "soon": soon}.items():
            with as_key(client, key) as keyed:
                answer = keyed.get("/gallery")
                told[name] = answer.json().get("detail", "")
        assert "was rotated" in told["old"]
        assert "has expired" in told["late"]
        assert told["new"] == told["soon"] == ""
        revoke_key(store, row.id)
        with as_key(client, new) as keyed:
            assert "was revoked" in keyed.get("/gallery").json()["detail"]


LATE = {"": 200, "first key": 401, "revoked": 401, "rotated": 401, "no table": 503}
"""What became of the key, and the status of the answer."""


@pytest.mark.parametrize("ended", LATE)
@pytest.mark.parametrize("idempotent", [False, True])
def test_nothing_is_done_with_a_key_that_ended_while_the_body_came(
    settings: Settings, ended: str, idempotent: bool
) -> None:
    set_clock, body = SetClock(), b'{"filter": {}, "expected_count": 1}'
    with serve(settings, clock=set_clock.clock) as client, store_of(settings) as store:
        enroll(client, crop(1))
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        headers["Expect"] = "100-continue"
        if idempotent:
            headers["Idempotency-Key"] = "a"
        if ended != "first key":
            headers["X-API-Key"] = make_key(settings, "admin", "first")
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), 30) as slow:
            sent = client.build_request("POST", "/gallery/delete", headers=headers).headers
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            slow.sendall(f"POST /gallery/delete HTTP/1.1\r\n{head}\r\n".encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 100")  # so the caller has been looked up
            set_clock.go_on(seconds=1)
            end_key(settings, store, ended)
            slow.sendall(body)
            assert slow.recv(1000).startswith(f"HTTP/1.1 {LATE[ended]}".encode())
        if ended == "no table":
            rename_table(settings, "gone", "keys")
        with as_key(client, make_key(settings, "reader")) as reader:
            assert len(reader.get("/gallery").json()["items"]) == bool(ended)


def end_key(settings: Settings, store: Store, how: str) -> None:
    """Revoke or rotate the key "first", or make the first key."""
    if how == "revoked":
        revoke_key(store, "first")
    elif how == "rotated":
        rotate_key(store, "first")
    elif how == "first key":
        make_key(settings, "admin", "first")
    elif how == "no table":
        rename_table(settings, "keys", "gone")


def rename_table(settings: Settings, old: str, new: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / "gallery.sqlite3")) as connection:
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")


def num_signed_in(store: Store) -> int:
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(SignIn)) or 0


def test_a_sign_in_with_a_key_that_is_rotated_meanwhile_counts_for_nothing(either_settings: Settings) -> None:
    key = make_key(either_settings, "reader", "anna")
    with (
        store_of(either_settings) as store,
        store_of(either_settings) as other,
        ThreadPoolExecutor(4) as threads,
    ):

        def keep_signing_in() -> list[str]:
            tokens: list[str] = []
            try:
                while True:
                    tokens.append(sign_in(store, key)[1])
            except KeyInvalid:
                return tokens

        signing = [threads.submit(keep_signing_in) for _ in range(3)]
        wait_until(lambda: num_signed_in(other) > 1)
        rotate_key(other, "anna")
        tokens = [token for one in signing for token in one.result()]
        assert tokens
        for token in tokens:
            with pytest.raises(KeyInvalid):
                find_signed_in(store, token)


def test_only_a_hash_is_stored_and_the_last_use(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen, before = make_settings(tmp_path), datetime.now(UTC)
    with serve(chosen) as client:
        key = make_key(chosen, "reader", "anna")
        make_key(chosen, "reader", "never")
        with as_key(client, key) as keyed:
            keyed.get("/gallery")
    with store_of(chosen) as store:
        used = {row.name: row.last_used_at for row in list_keys(store)}
        assert used["anna"] is not None
        assert before < used["anna"] < datetime.now(UTC)
        assert used["never"] is None
    with sqlite3.connect(tmp_path / "gallery.sqlite3") as connection:
        assert key.rpartition("_")[2] not in "\n".join(connection.iterdump())


def test_names_and_cameras_are_checked(settings: Settings) -> None:
    with store_of(settings) as store:
        row, _ = create_key(store, "  Jose\u0301 ", Role.reader, ["Tu\u0308r", "T\u00fcr"])
        assert (row.name, row.cameras) == ("Jos\u00e9", ["T\u00fcr"])
        with pytest.raises(KeyExists):
            create_key(store, "Jos\u00e9", Role.reader)
        for name, role, cameras in (
            ("", Role.reader, None),
            ("a\nb", Role.reader, None),
            ("x" * 256, Role.reader, None),
            ("none", Role.reader, []),
            ("boss", Role.admin, ["door"]),
        ):
            with pytest.raises(InvalidRequest):
                create_key(store, name, role, cameras)
        assert len(list_keys(store)) == 1


def test_an_idempotency_key_belongs_to_its_caller(settings: Settings) -> None:
    with serve(settings) as client:
        keys = [make_key(settings, "operator", name) for name in ("one", "two")]
        answers = []
        for key in (*keys, keys[0]):
            headers = {"Idempotency-Key": "the same", "Authorization": f"Bearer {key}"}
            answers.append(client.post("/gallery", headers=headers, files=images(crop(1))))
        first, other, again = answers
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in other.headers
        assert other.json()["items"][0]["id"] != first.json()["items"][0]["id"]


def test_a_browser_signs_in_and_out(settings: Settings) -> None:
    with serve(settings) as client:
        key = make_key(settings, "operator", "anna")
        assert code_of(client.post("/session", json={"key": key + "x"})) == "key_invalid"
        for _ in range(2):
            again = client.post("/session", json={"key": key}, headers={"Idempotency-Key": "a"})
            assert "set-cookie" in again.headers
        answer = client.post("/session", json={"key": key})
        assert answer.json()["name"] == "anna"
        cookie = answer.headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
            assert part in cookie
        assert "Secure" not in cookie
        assert key not in cookie
        token = client.cookies["reid_session"]
        assert client.get("/session").json()["role"] == "operator"
        assert client.post("/gallery", **CAPTURED).status_code == 201  # type: ignore[arg-type]
        foreign = client.post("/gallery", **CAPTURED, headers={"Origin": "http://evil.example"})  # type: ignore[arg-type]
        assert code_of(foreign) == "foreign_origin"
        assert client.delete("/session").status_code == 204
        client.cookies.set("reid_session", token)
        assert code_of(client.get("/gallery")) == "key_invalid"


def test_the_first_of_two_cookies_counts(settings: Settings) -> None:
    with serve(settings) as client:
        client.post("/session", json={"key": make_key(settings, "reader", "anna")})
        own = f"reid_session={client.cookies['reid_session']}"
        client.cookies.clear()
        for sent, expected in (
            (f"a=b; {own}; reid_session=x", None),
            (f"reid_session=x; {own}", "key_invalid"),
        ):
            assert code_of(client.get("/gallery", headers={"Cookie": sent})) == expected


def test_revoking_a_key_signs_its_browsers_out(settings: Settings) -> None:
    with serve(settings) as client, store_of(settings) as store:
        client.post("/session", json={"key": make_key(settings, "admin", "anna")})
        assert client.get("/gallery").status_code == 200
        revoke_key(store, "anna")
        assert code_of(client.get("/gallery")) == "key_invalid"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"Via": "1.1 nginx"},
        {"Host": "door.example"},
    ],
)
def test_without_a_key_only_this_machine_is_answered(
    make_settings: Callable[..., Settings], tmp_path: Path, headers: dict[str, str]
) -> None:
    for is_open in (False, True):
        folder = tmp_path / str(is_open)
        with serve(make_settings(folder, allowed_hosts=("door.example",), allow_open=is_open)) as client:
            assert client.get("/gallery").status_code == 200
            answer = client.get("/gallery", headers=headers)
            assert code_of(answer) == (None if is_open else "key_required")

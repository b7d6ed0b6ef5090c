"""Q: a download may begin anywhere; a Range that is none is ignored, and one behind the end is a problem."""

import httpx
import pytest


@pytest.fixture(params=["/models/{version}/file", "/web/api.js"])
def path(shared_client: httpx.Client, request: pytest.FixtureRequest) -> str:
    version = shared_client.get("/readyz").json()["model_version"]
    return str(request.param).format(version=version)


@pytest.mark.parametrize(
    "asked",
    [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=9-0",
        "bytes=0-9,",
        "bytes=0-9,9-0",
        "bytes=0-" + "9" * 5000,
        "lines=0-9",
        "0-9",
    ],
)
def test_q_a_range_that_is_none_is_ignored(shared_client: httpx.Client, path: str, asked: str) -> None:
    whole = shared_client.get(path)
    answer = shared_client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, whole.content)


@pytest.mark.parametrize("asked", ["bytes={}-", "bytes={}-999999999", "bytes=0-9,{}-"])
def test_q_a_range_behind_the_end_is_a_problem(shared_client: httpx.Client, path: str, asked: str) -> None:
    num = len(shared_client.get(path).content)
    for answer in (
        shared_client.get(path, headers={"Range": asked.format(num)}),
        shared_client.head(path, headers={"Range": asked.format(num)}),
    ):
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{num}"
        assert answer.headers["content-type"] == "application/problem+json"
    answer = shared_client.get(path, headers={"Range": asked.format(num)})
    assert answer.json()["code"] == "range_not_satisfiable"
    assert f"which has {num} bytes" in answer.json()["detail"]


def test_q_a_range_is_what_was_asked_for(shared_client: httpx.Client, path: str) -> None:
    whole = shared_client.get(path).content
    for asked, part in (("0-9", whole[:10]), ("10-", whole[10:]), ("-7", whole[-7:]), (" 0-0", whole[:1])):
        answer = shared_client.get(path, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, part)


def test_q_a_path_without_a_file_takes_no_range(shared_client: httpx.Client) -> None:
    for asked in ("bytes=9-0", "bytes=9999999-"):
        assert shared_client.get("/livez", headers={"Range": asked}).status_code == 200

"""A page of another site cannot act in an operator's browser: headers, and what Chromium makes of them."""

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import ValidationError

from command_line import MakeEnv, reid
from live_server import crop, enroll, images, serve
from other_site import FORM_POST, in_page, serve_other_site
from service.settings import Settings

ELSEWHERE = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "not an origin"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none, cross-site"},
]


def own_origin(client: httpx.Client) -> str:
    """Return the origin of the pages of a service."""
    return f"http://{client.base_url.netloc.decode()}"


@pytest.mark.parametrize("headers", ELSEWHERE)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/models/rollback", "/gallery", "/search", "/identities/anna", "/nothing"])
def test_a_change_for_a_page_elsewhere_is_refused(
    shared_client: httpx.Client, headers: dict[str, str], method: str, path: str
) -> None:
    answer = shared_client.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert answer.headers["content-type"] == "application/problem+json"


def test_one_foreign_header_beside_an_own_one_is_enough(shared_client: httpx.Client) -> None:
    own = own_origin(shared_client)
    for headers in (
        [("Origin", own), ("Origin", "http://evil.example")],
        [("Origin", own), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin")],
    ):
        assert shared_client.post("/models/rollback", headers=headers).status_code == 403


def test_the_page_and_programs_may_change(client: httpx.Client) -> None:
    for headers in (
        {},
        {"Origin": own_origin(client), "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert client.post("/gallery", files=images(crop(1)), headers=headers).is_success
    assert client.post("/search", files=images(crop(1)), headers=ELSEWHERE[0]).status_code == 403


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_reading_is_not_refused_by_origin(shared_client: httpx.Client, headers: dict[str, str]) -> None:
    assert shared_client.get("/gallery", headers=headers).status_code == 200
    assert shared_client.head("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1:80", "[::1]:8000", "localhost."]
)
def test_names_of_this_machine_are_known(shared_client: httpx.Client, host: str) -> None:
    assert shared_client.get("/gallery", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "localhost@evil", "", "10.0.0.1", "[::2]", "127.0.0.1:x"],
)
@pytest.mark.parametrize("path", ["/gallery", "/", "/docs", "/openapi.json", "/web/api.js", "/nothing"])
def test_an_unknown_host_is_refused_except_by_the_probes(
    shared_client: httpx.Client, host: str, path: str
) -> None:
    answer = shared_client.get(path, headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "unknown_host")
    assert "REID_ALLOWED_HOSTS" in answer.json()["detail"]
    for probe in ("/livez", "/readyz"):
        assert shared_client.get(probe, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["evil.example", "localhost"]])
def test_a_request_has_one_host(shared_client: httpx.Client, hosts: list[str]) -> None:
    connection = http.client.HTTPConnection(shared_client.base_url.netloc.decode())
    connection.putrequest("GET", "/gallery", skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400
    connection.close()


def test_hosts_of_the_settings_are_known(settings: Settings) -> None:
    named = settings.model_validate(
        settings.model_dump()
        | {"allowed_hosts": "Door.example., *.reid.example,[fd00::7]", "allow_open": True}
    )
    assert named.allowed_hosts == ("door.example", "*.reid.example", "fd00::7")
    with serve(named) as client:
        for host, status in {
            "door.example:8000": 200,
            "a.b.reid.example": 200,
            "reid.example": 421,
            "[FD00::7]": 200,
            "other.example": 421,
        }.items():
            assert client.get("/gallery", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("hosts", ["http://door", "door:8000", "a b", "door/x", "*.", "**"])
def test_a_setting_that_is_no_host_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match="is no host"):
        Settings(allowed_hosts=hosts)


@pytest.mark.parametrize("origins", ["door", "*", "https://door/", "https://door/x", "null", "ftp://door"])
def test_a_setting_that_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=origins)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])  # noqa: S104 - refused before it is listened to
def test_a_server_on_every_address_needs_the_names_of_its_hosts(
    make_env: MakeEnv, tmp_path: Path, host: str
) -> None:
    done = reid("serve", "--host", host, "--port", "0", env=make_env(tmp_path / "data"))
    assert done.returncode == 1
    assert "name the hosts that clients write, as in REID_ALLOWED_HOSTS=" in done.stderr


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/livez", "/gallery", "/nothing", "/web/api.js"]
)
def test_every_answer_says_what_browsers_may_do_with_it(shared_client: httpx.Client, path: str) -> None:
    headers = shared_client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/gallery", "no-store"),
        ("/session", "no-store"),
        ("/nothing", "no-store"),
        ("/web/api.js", "no-cache"),
    ],
)
def test_answers_that_name_people_stay_in_no_cache(shared_client: httpx.Client, path: str, kept: str) -> None:
    assert shared_client.get(path).headers["cache-control"] == kept


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another site."""
    with serve_other_site() as port:
        yield port


@pytest.fixture(params=["http://evil.example:{}/", "http://127.0.0.1:{}/"], ids=["cross-site", "same-site"])
def evil_page(browser: Browser, elsewhere: int, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of another site, and of another server of this machine."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(request.param.format(elsewhere))
    yield page
    context.close()


NO_CORS_POST = """async url => {
    const form = new FormData();
    form.append("images", new Blob([new Uint8Array(CROP)]), "a.jpg");
    await fetch(url, {method: "POST", mode: "no-cors", body: form}).catch(() => null);
}"""
SHOWN_WIDTH = """url => new Promise(resolve => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => resolve(0);
    image.src = url;
})"""


def test_a_page_elsewhere_changes_nothing(shared_client: httpx.Client, evil_page: Page) -> None:
    before = shared_client.get("/gallery").json()["items"]
    jobs = shared_client.get("/jobs").json()["jobs"]
    own = own_origin(shared_client)
    post = NO_CORS_POST.replace("CROP", str(list(crop(77))))
    assert 403 in in_page(evil_page, lambda: evil_page.evaluate(FORM_POST, f"{own}/models/rollback"))
    evil_page.evaluate(post, f"{own}/gallery")
    assert shared_client.get("/gallery").json()["items"] == before
    assert shared_client.get("/jobs").json()["jobs"] == jobs
    evil_page.goto(own)
    evil_page.evaluate(post, f"{own}/gallery")  # from a page of the service, the same enrols
    assert len(shared_client.get("/gallery").json()["items"]) == len(before) + 1


def test_a_page_elsewhere_shows_no_crop_and_frames_no_page(
    shared_client: httpx.Client, evil_page: Page
) -> None:
    (item,) = enroll(shared_client, crop(1))
    own = own_origin(shared_client)
    assert evil_page.evaluate(SHOWN_WIDTH, f"{own}{item['image_url']}") == 0
    refused: list[str] = []
    evil_page.on("console", lambda said: refused.append(said.text))
    evil_page.set_content(f'<iframe src="{own}/docs"></iframe><iframe src="{own}/"></iframe>')
    evil_page.wait_for_timeout(500)
    assert sum("frame-ancestors" in said for said in refused) == 2


def test_a_name_that_is_turned_to_this_machine_reads_nothing(
    shared_client: httpx.Client, browser: Browser
) -> None:
    page = browser.new_page(bypass_csp=True)  # else the answer itself forbids the fetch
    answer = page.goto(f"http://rebound.example:{shared_client.base_url.port}/gallery")
    assert answer is not None
    assert (answer.status, answer.json()["code"]) == (421, "unknown_host")
    read = page.evaluate("async () => (await fetch('/gallery')).status")
    assert read == 421
    page.close()


def test_a_page_of_a_named_origin_may_use_the_api(
    make_settings: Callable[..., Settings], tmp_path: Path, browser: Browser, elsewhere: int
) -> None:
    origin = f"http://friend.example:{elsewhere}"
    act = """async url => {
        const form = new FormData();
        form.append("images", new Blob([new Uint8Array(CROP)]), "a.jpg");
        const headers = {"Idempotency-Key": "a"};
        const answer = await fetch(url, {method: "POST", body: form, headers});
        return [answer.status, (await answer.json()).items.length, answer.headers.has("X-Request-ID")];
    }""".replace("CROP", str(list(crop(1))))
    with serve(make_settings(tmp_path / "data", cors_origins=origin)) as client:
        page = browser.new_page()
        page.goto(origin)
        assert page.evaluate(act, f"{own_origin(client)}/gallery") == [201, 1, True]
        page.goto(f"http://stranger.example:{elsewhere}")
        assert (
            page.evaluate(f"url => ({act})(url).catch(error => error.name)", f"{own_origin(client)}/gallery")
            == "TypeError"
        )
        page.close()


def test_the_documentation_of_the_api_breaks_no_policy(shared_client: httpx.Client, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text))
    page.goto(f"{own_origin(shared_client)}/docs")
    expect(page.locator("#operations-search-post_search")).to_be_visible()
    assert not [text for text in said if "Security Policy" in text]
    page.close()

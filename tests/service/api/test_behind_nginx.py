"""The service behind nginx, as docs/proxies.md configures it: browsers, `reid`, and large bodies."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from certificates import Certificate
from command_line import put
from keyed import make_key
from live_server import crop, encode, enroll, serve
from nginx import nginx
from service.cli.main import app
from service.settings import Settings
from training.weights.deployment import deploy


class Behind(NamedTuple):
    """A service behind nginx: its key, the URL of nginx without a path, and a client of each."""

    key: str
    url: str
    service: httpx.Client
    client: httpx.Client


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory,
    make_settings: Callable[..., Settings],
    certificate: Certificate,
) -> Iterator[Behind]:
    """A service that trusts the nginx in front of it."""
    settings = make_settings(tmp_path_factory.mktemp("behind") / "data", trusted_proxies="127.0.0.1")
    key = make_key(settings, "admin")
    headers = {"Authorization": f"Bearer {key}"}
    with (
        serve(settings) as service,
        nginx(tmp_path_factory.mktemp("nginx"), str(service.base_url), certificate) as url,
        httpx.Client(base_url=url, verify=certificate.for_clients(), headers=headers, timeout=60) as client,
    ):
        service.headers.update(headers)
        yield Behind(key, url, service, client)


@pytest.fixture
def page(browser: Browser, behind: Behind) -> Iterator[Page]:
    """A page of a browser that is signed in; it has no errors and gets each file until the end."""
    faults: list[str] = []
    context = browser.new_context(ignore_https_errors=True)
    assert context.request.post(f"{behind.url}/reid/session", data={"key": behind.key}).ok
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("response", lambda got: faults.append(got.url) if got.status >= 400 else None)
    yield page
    context.close()
    assert not faults


@pytest.fixture
def reid(behind: Behind, certificate: Certificate) -> Callable[..., Result]:
    """Run a command of `reid` that has the key and trusts the authority of nginx."""

    def run(url: str, *arguments: str | Path) -> Result:
        known = {"REID_API_KEY": behind.key, "SSL_CERT_FILE": str(certificate.authority)}
        return CliRunner().invoke(
            app, [*map(str, arguments), "--url", url], catch_exceptions=False, env={"COLUMNS": "140", **known}
        )

    return run


@pytest.mark.parametrize("path", ["/reid", "/taken-off"])
def test_every_url_of_the_service_leads_back_to_it(behind: Behind, path: str) -> None:
    client, crops = behind.client, {"images": ("a.jpg", crop(1))}
    item = client.post(f"{path}/gallery", files=crops).json()["items"][0]
    assert client.get(item["image_url"]).content == crop(1)
    job = client.post(f"{path}/gallery", files=crops, headers={"Prefer": "respond-async"})
    assert client.get(job.headers["location"]).json()["id"] == job.json()["id"]
    moved = client.get(f"{path}/docs/")
    assert moved.headers["location"] == f"{behind.url}{path}/docs"
    assert client.get(path).headers["location"] == f"{behind.url}{path}/"
    assert client.get(f"{path}/openapi.json").json()["servers"] == [{"url": path}]


def test_the_cookie_of_the_page_is_of_the_prefix_and_secure(behind: Behind) -> None:
    for path in ("/reid", "/taken-off"):
        signed_in = behind.client.post(f"{path}/session", json={"key": behind.key})
        assert f"Path={path}/;" in signed_in.headers["set-cookie"]
        assert "; Secure" in signed_in.headers["set-cookie"]


def test_names_with_slashes_come_through(behind: Behind) -> None:
    name = "a/b//é %"
    made = behind.client.post("/reid/identities", json={"id": name})
    assert behind.client.get(made.headers["location"]).json()["id"] == name
    assert behind.client.get(f"/reid/identities/{quote(name, safe='')}").json()["id"] == name


def test_log_and_audit_have_the_address_of_the_client_whatever_it_claims(
    behind: Behind, certificate: Certificate
) -> None:
    forged = {
        "X-API-Key": behind.key,
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "http",
    }
    transport = httpx.HTTPTransport(local_address="127.0.0.3", verify=certificate.for_clients())
    with httpx.Client(transport=transport, headers=forged) as client, capture_logs() as lines:
        answer = client.get(f"{behind.url}/reid/docs/")
        assert client.post(f"{behind.url}/reid/identities", json={"id": "audited"}).is_success
    assert answer.headers["location"] == f"{behind.url}/reid/docs"
    assert [line["address"] for line in lines if line.get("path") == "/docs/"] == ["127.0.0.3"]
    rows = behind.service.get("/audit", params={"identity_id": "audited"}).json()["rows"]
    assert [row["address"] for row in rows] == ["127.0.0.3"]


def test_the_page_searches_and_shows_pictures(behind: Behind, page: Page) -> None:
    enroll(behind.service, crop(7), identity_id="seven")
    page.goto(f"{behind.url}/reid/")
    expect(page.locator("#status")).to_have_class("ready")
    upload: FilePayload = {"name": "crop.jpg", "mimeType": "image/jpeg", "buffer": crop(7)}
    page.locator("#search .drop input").set_input_files([upload])
    card = page.locator("#search .card").first
    expect(card.locator("> .name")).to_have_text("seven")
    expect(card.locator("> img")).to_have_js_property("complete", True)
    assert card.locator("> img").evaluate("image => image.naturalWidth") > 0
    page.get_by_role("link", name="Enrol").click()  # a change, for which the origin counts
    page.locator("#enrol .drop input").set_input_files([upload])
    page.get_by_role("button", name="Enrol").click()
    expect(page.locator("#enrol .card")).to_have_count(1)


def test_docs_show_the_requests_and_send_one(behind: Behind, page: Page) -> None:
    page.goto(f"{behind.url}/reid/")
    page.get_by_role("link", name="API").click()
    operation = page.locator("[id^=operations-][id$=-livez]")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_reid_enrols_searches_imports_and_exports_through_nginx(
    behind: Behind, reid: Callable[..., Result], tmp_path: Path
) -> None:
    url = f"{behind.url}/reid"
    put(tmp_path / "new" / "zoe" / "1.jpg", crop(11))
    put(tmp_path / "more" / "yan" / "1.jpg", crop(12))
    assert "1 enrolled" in reid(url, "enroll", tmp_path / "new", "--layout", "folders").stdout
    assert "1 enrolled" in reid(url, "import", tmp_path / "more", "--layout", "folders").stdout
    assert "zoe" in reid(url, "search", tmp_path / "new" / "zoe" / "1.jpg").stdout
    done = reid(url, "export", "--out", tmp_path / "out", "--identity-id", "zoe", "--identity-id", "yan")
    assert done.exit_code == 0, done.stderr
    assert {path.read_bytes() for path in (tmp_path / "out").rglob("*.jpg")} == {crop(11), crop(12)}


def test_a_body_larger_than_the_default_of_nginx_is_told_and_the_documented_limit_takes_it(
    behind: Behind, reid: Callable[..., Result], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 600, 3), np.uint8)
    put(tmp_path / "large" / "1.png", encode(Image.fromarray(noise), "PNG"))
    refused = reid(f"{behind.url}/small", "import", tmp_path / "large")
    assert refused.exit_code == 1
    assert "a proxy on the way to the service refuses so large a request" in refused.stderr
    assert "client_max_body_size" in refused.stderr
    each = reid(f"{behind.url}/small", "enroll", tmp_path / "large")
    assert "1.png: a proxy on the way" in each.stderr
    assert "1 enrolled" in reid(f"{behind.url}/reid", "import", tmp_path / "large").stdout


def test_a_network_is_deployed_through_nginx(
    behind: Behind, another_checkpoint: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    monkeypatch.setenv("REID_API_KEY", behind.key)
    version = deploy(another_checkpoint, f"{behind.url}/reid")
    assert behind.service.get("/models/active").json()["version"] == version

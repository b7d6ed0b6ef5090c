"""The client against a running service: typed answers, pages as iterators, with threads and with tasks."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_server import crop, serve
from service.client import AsyncClient, Client, ClientError, CropFile, Refused, people_calls
from service.client.calls import Call, reads
from service.client.gallery_calls import list_items
from service.client.methods import PagedMethod
from service.client.people_answers import ShownIdentity
from service.settings import Settings

AT = datetime(2026, 3, 1, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(make_settings(tmp_path_factory.mktemp("client") / "data")) as running:
        yield str(running.base_url)


def crops(identity_id: str, *seeds: int) -> list[CropFile]:
    return [CropFile(Path(f"{seed}.jpg"), identity_id, "door", AT, "7", content=crop(seed)) for seed in seeds]


def test_a_person_is_enrolled_found_corrected_and_erased(url: str) -> None:
    with Client(url) as client:
        first, second = client.enroll(crops("a/b", 1, 2)).items
        assert (first.is_new, first.camera_id, first.captured_at, first.track_id) == (True, "door", AT, "7")
        assert client.search([crop(1)], identity_id=["a/b"]).matches[0].items[0].captured_at == AT
        alike = client.search(item_id=[first.id], query_identity_id="a/b", item_weight=0.5, group_by="item")
        assert [match.items[0].id for match in alike.matches] == [second.id]
        batch = client.search_batch([{"images": [0]}, {"item_id": [first.id]}], [crop(1)])
        assert [answer.matches[0].identity_id for answer in batch.answers] == ["a/b", "a/b"]
        assert (
            len(client.search_batch([{"item_id": [first.id], "filter": {"captured_after": AT}}]).answers) == 1
        )
        assert client.verify([crop(1)], identity_id="a/b").score == pytest.approx(1, abs=0.3)
        assert [item.id for item in client.list_items_of("a/b", captured_after=AT)] == [first.id, second.id]
        assert [visit.num_items for visit in client.list_visits("a/b")] == [2]
        described = client.describe_identity("a/b", name="Anna", attributes={"height": "170"})
        assert (described.name, described.attributes) == ("Anna", {"height": "170"})
        assert [one.id for one in client.list_identities(attribute_at_least=["height=170"])] == ["a/b"]
        moved = client.split("a/b", [second.id], new_identity_id="c")
        assert client.get_item(second.id).identity_id == "c"
        assert client.undo(moved.operation_id).undone_at is not None
        assert next(client.list_operations()).operation_id == moved.operation_id
        corrected = client.correct_item(first.id, camera_id="hall", captured_at=None)
        assert (corrected.camera_id, corrected.captured_at) == ("hall", None)
        assert [camera.id for camera in client.list_cameras(identity_id=["a/b"]).cameras] == ["door", "hall"]
        assert client.get_stats(days=1).num_identities >= 1
        assert client.delete_items(expected_count=None, identity_id=["a/b"]).num_items == 2
        assert client.erase_identity("a/b").erased.items == 2
        with pytest.raises(Refused) as refusal:
            client.get_identity("a/b")
        assert (refusal.value.status, refusal.value.code) == (404, "identity_not_found")
        assert client.get_image(first.id) is None


def test_the_tasks_of_an_event_loop_use_the_same_methods(url: str) -> None:
    async def use() -> None:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.enroll(crops("anna", seed)) for seed in (11, 12, 13)))
            enrolled = {item.id for answer in answers for item in answer.items}
            assert {item.id async for item in client.list_items(identity_id=["anna"])} == enrolled
            found = await client.search([crop(11)], top_k=1, group_by="item")
            assert found.matches[0].items[0].id in enrolled
            with pytest.raises(Refused, match="no identity"):
                await client.merge("nobody", ["anna"])
            job = await client.evaluate_model((await client.list_models()).model_version)
            states = [one.state async for one in client.follow_job(job)]
            assert states[-1] in ("succeeded", "failed")

    asyncio.run(use())


class ClientOfShortPages(Client):
    """A client that asks for two items at a time."""

    list_short = PagedMethod(lambda name: replace(list_items(identity_id=[name]), limit=2))


def test_a_list_is_read_page_after_page(url: str) -> None:
    with ClientOfShortPages(url) as client:
        enrolled = [item.id for item in client.enroll(crops("pages", *range(20, 25))).items]
        listed = client.list_short("pages")
        assert next(listed).id == enrolled[0]
        assert client.enroll(crops("pages", 25)).items[0].id not in enrolled
        assert [item.id for item in listed][:4] == enrolled[1:]


def test_an_answer_of_another_form_is_told_in_a_sentence() -> None:
    call: Call[ShownIdentity] = people_calls.get_identity("anna")
    with pytest.raises(ClientError, match="use a client and a service of one version"):
        call.read(httpx.Response(200, json={"id": "anna"}))
    newer = reads(ShownIdentity)
    fields: dict[str, Any] = {
        "id": "a",
        "name": None,
        "notes": None,
        "attributes": {},
        "created_at": AT.isoformat(),
    }
    fields |= {"num_items": 0, "first_seen": None, "last_seen": None, "cameras": [], "request_id": "1"}
    assert newer(httpx.Response(200, json={**fields, "new": 1})).model_dump()["new"] == 1


def test_the_client_imports_no_library_of_the_service() -> None:
    program = (
        "import sys, service.client\n"
        "heavy = {'torch', 'faiss', 'sqlalchemy', 'numpy', 'fastapi', 'PIL', 'openvino', 'model'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
        "ours = [name for name in sys.modules if name.startswith('service.')]\n"
        "print([name for name in ours if not name.startswith('service.client')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["[]", "[]"]

"""How many requests a minute one address and one key may send, and how the client waits."""

import asyncio
from typing import Any

from keyed import as_key, make_key
from live_server import serve
from service.api.rates import RateLimit, address_of
from service.client.transport import Transport
from service.settings import Settings

WRONG = {"Authorization": f"Bearer reid_000000000000_{'0' * 64}"}


def limited(settings: Settings, **limits: int | None) -> Settings:
    return settings.model_copy(update=limits)


def test_a_flood_of_wrong_keys_is_refused_before_any_key_is_looked_up(settings: Settings) -> None:
    with serve(limited(settings, rate_per_address=5)) as client:
        key = make_key(settings, "reader")
        for left in (4, 3, 2, 1, 0):
            answer = client.get("/gallery", headers=WRONG)
            assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid")
            assert answer.headers["ratelimit-policy"] == '"address";q=5;w=60'
            assert answer.headers["ratelimit"].startswith(f'"address";r={left};t=')
        refused = [client.get("/gallery", headers=WRONG), client.post("/session", json={"key": "x"})]
        with as_key(client, key) as keyed:
            refused.append(keyed.get("/gallery"))
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert "REID_RATE_PER_ADDRESS" in answer.json()["detail"]
            wait_s = int(answer.headers["retry-after"])
            assert 1 <= wait_s <= 12
            assert answer.headers["ratelimit"] == f'"address";r=0;t={wait_s}'
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        for path in ("/livez", "/readyz") * 5:
            probe = client.get(path)
            assert probe.status_code == 200
            assert "ratelimit" not in probe.headers


def test_each_key_is_counted_by_itself_and_after_its_address(settings: Settings) -> None:
    with serve(limited(settings, rate_per_address=100, rate_per_key=3)) as client:
        anna, ben = (make_key(settings, "reader", name) for name in ("anna", "ben"))
        with as_key(client, anna) as by_anna, as_key(client, ben) as by_ben:
            answers = [by_anna.get("/session") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert "REID_RATE_PER_KEY" in answers[-1].json()["detail"]
            assert answers[-1].headers["ratelimit-policy"] == '"key";q=3;w=60, "address";q=100;w=60'
            assert by_ben.get("/session").status_code == 200


def test_nothing_is_counted_if_there_is_no_limit(settings: Settings) -> None:
    with serve(limited(settings, rate_per_address=None)) as client:
        assert "ratelimit" not in client.get("/gallery").headers


def test_the_client_waits_until_it_may_send_again(settings: Settings) -> None:
    with serve(limited(settings, rate_per_key=60)) as client:
        key = make_key(settings, "reader")
        with as_key(client, key) as keyed:
            while keyed.get("/session").status_code == 200:
                pass
        transport = Transport(str(client.base_url), key)
        answers = [transport.request("GET", "/session") for _ in range(2)]
        transport.close()
        assert [answer.status_code for answer in answers] == [200, 200]


async def statuses_of(limit: RateLimit, *addresses: str) -> list[int]:
    """Return the status of a request from each address, one after the other."""
    statuses = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    for address in addresses:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "client": (address, 1),
        }
        await limit(scope | {"state": {"request_id": "1"}}, receive, send)
    return statuses


async def fine(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def test_an_ipv6_network_counts_as_one_address() -> None:
    limit = RateLimit(fine, "address", 1, address_of)
    addresses = ("2001:db8::1", "2001:db8::2:0:0:1", "2001:db8:0:1::1", "10.0.0.1", "::ffff:10.0.0.1")
    assert asyncio.run(statuses_of(limit, *addresses)) == [200, 429, 200, 200, 429]


def test_a_caller_of_many_addresses_does_not_fill_the_memory() -> None:
    limit = RateLimit(fine, "address", 1, address_of, max_senders=2)
    assert asyncio.run(statuses_of(limit, "10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.1")) == [
        200,
        200,
        429,
        200,
        429,  # 10.0.0.1 was heard after 10.0.0.2, which is forgotten
    ]
    assert asyncio.run(statuses_of(limit, "10.0.0.2")) == [200]

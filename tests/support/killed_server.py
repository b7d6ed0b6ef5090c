"""Clients that enrol, search and delete while their server is killed and started again.

Every answer must hold: an item of a 201 is there with its bytes until a client asks to delete the item, and a
deleted item of a 204 is gone. A request without an answer may have been done or not.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

import httpx
import structlog
import uvicorn

from forked import Fork, Process
from live_server import TIMEOUT_S, crop, images, wait_until, wait_until_ready
from service.api.app import create_app
from service.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
NUM_CLIENTS = 4
ANSWERS_BETWEEN_KILLS = (20, 80)


@dataclass
class Ledger:
    """The answers that the clients got; `lost` lists the answers that turned out to be wrong."""

    alive: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    tried: Counter[str] = field(default_factory=Counter)
    num_answers: int = 0
    lost: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)


def run_server(port: int, *, is_silent: bool = True) -> None:
    """Serve the gallery that the environment names until the process ends."""
    if is_silent:
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    uvicorn.run(create_app(read_settings()), port=port, log_level="error", access_log=False)


def start_process(settings: Settings, port: int) -> Fork:
    """Start a server in a process of its own."""
    environment = {
        "REID_DATA_DIR": str(settings.data_dir),
        "REID_DATABASE_URL": settings.database_url,
        "REID_DEFAULT_CHECKPOINT": str(settings.default_checkpoint),
    }
    return Fork(run_server, port, environment=environment)


def wait_for(client: httpx.Client, process: Process) -> None:
    """Wait until a server that was just started is ready."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        assert process.poll() is None, "the server has ended by itself"
        assert time.monotonic() < deadline_s
        try:
            wait_until_ready(client)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return


def torment(settings: Settings, port: int, num_kills: int, seed: int) -> Ledger:
    """Kill the server ``num_kills`` times, at random moments of busy clients, then check every item."""
    chance, ledger, is_over = random.Random(seed), Ledger(), Event()
    url = f"http://127.0.0.1:{port}"
    threads = [
        Thread(target=_work, args=(url, ledger, is_over, random.Random(f"{seed} {number}")))
        for number in range(NUM_CLIENTS)
    ]
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        process = start_process(settings, port)
        try:
            wait_for(client, process)
            for thread in threads:
                thread.start()
            for _ in range(num_kills):
                if chance.random() < 0.8:
                    wait_for(client, process)
                    _wait_for_answers(ledger, chance.randint(*ANSWERS_BETWEEN_KILLS))
                else:  # killed while it starts
                    _wait_for_life(client)
                process.kill()
                process.wait()
                process = start_process(settings, port)
            wait_for(client, process)
            is_over.set()
            for thread in threads:
                thread.join()
            _verify(client, ledger)
        finally:
            is_over.set()
            process.terminate()
            process.wait()
    return ledger


def _wait_for_answers(ledger: Ledger, num: int) -> None:
    """Wait until the clients have got ``num`` more answers."""
    before = ledger.num_answers
    wait_until(lambda: ledger.num_answers >= before + num)


def _wait_for_life(client: httpx.Client) -> None:
    """Wait until a server that was just started answers a request."""

    def lives() -> bool:
        try:
            return client.get("/livez").is_success
        except httpx.TransportError:
            return False

    wait_until(lives)


def _work(url: str, ledger: Ledger, is_over: Event, chance: random.Random) -> None:
    acts: list[Callable[[httpx.Client, Ledger, random.Random], None]] = [_enroll, _enroll, _delete, _search]
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        while not is_over.is_set():
            chance.choice(acts)(client, ledger, chance)


def _send(
    client: httpx.Client, ledger: Ledger, method: str, path: str, **form: object
) -> httpx.Response | None:
    """Send a request until it reaches a server that is ready; None if it then got no answer, or a 503."""
    try:
        while True:
            answer = _sent(client, method, path, **form)
            if answer is not None:
                break
            ledger.tried["came when nobody was there"] += 1
            time.sleep(0.1)
    except httpx.TransportError:
        ledger.tried[f"{method} without an answer"] += 1
        time.sleep(0.05)
        return None
    with ledger.lock:
        ledger.tried[f"{method} {path.split('/')[1]} {answer.status_code}"] += 1
        ledger.num_answers += 1
    return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer


def _sent(client: httpx.Client, method: str, path: str, **form: object) -> httpx.Response | None:
    """Send a request once; None if it cannot have had an effect."""
    try:
        answer = client.request(method, path, **form)  # type: ignore[arg-type]
    except httpx.ConnectError:
        return None
    is_starting = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "not_ready" in answer.text
    return None if is_starting else answer


def _enroll(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    seeds = [chance.randrange(40) for _ in range(chance.randint(1, 3))]  # few people: crops are shared
    answer = _send(client, ledger, "POST", "/gallery", files=images(*[crop(seed) for seed in seeds]))
    if answer is not None:
        assert answer.status_code == httpx.codes.CREATED, answer.text
        with ledger.lock:
            ledger.alive |= {
                item["id"]: seed for item, seed in zip(answer.json()["items"], seeds, strict=True)
            }


def _delete(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    with ledger.lock:
        if not ledger.alive:
            return
        item_id = chance.choice(sorted(ledger.alive))
        del ledger.alive[item_id]
        ledger.uncertain.add(item_id)
    answer = _send(client, ledger, "DELETE", f"/gallery/{item_id}")
    if answer is not None:
        assert answer.status_code == httpx.codes.NO_CONTENT, answer.text
        with ledger.lock:
            ledger.uncertain.remove(item_id)
            ledger.deleted.add(item_id)


def _search(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    with ledger.lock:
        deleted = set(ledger.deleted)
    form = {"group_by": "item", "top_k": "1000"}
    files = images(crop(chance.randrange(40)))
    answer = _send(client, ledger, "POST", "/search", files=files, data=form)
    if answer is not None:
        assert answer.status_code == httpx.codes.OK, answer.text
        found = {match["items"][0]["id"] for match in answer.json()["matches"]}
        ledger.lost += [f"{item_id} was found after its 204" for item_id in found & deleted]


def _verify(client: httpx.Client, ledger: Ledger) -> None:
    for item_id, seed in ledger.alive.items():
        if client.get(f"/gallery/{item_id}/image").content != crop(seed):
            ledger.lost.append(f"{item_id} was acknowledged and is not there")
    for item_id in ledger.deleted:
        if client.get(f"/gallery/{item_id}").status_code != httpx.codes.NOT_FOUND:
            ledger.lost.append(f"{item_id} was deleted and is there")
    form = {"group_by": "item", "top_k": "1000"}
    for seed in sorted(set(ledger.alive.values())):
        expected = {item_id for item_id, other in ledger.alive.items() if other == seed}
        answer = client.post("/search", files=images(crop(seed)), data=form).json()
        found = {match["items"][0]["id"] for match in answer["matches"] if match["score"] > 0.999}
        ledger.lost += [f"{item_id} is not found by its own crop" for item_id in expected - found]

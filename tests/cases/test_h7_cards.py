"""H7: a card is validated whole before anything is kept, and what older versions have kept breaks nothing."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save
from sqlalchemy import text

from live_server import activate, crop, enroll, search, serve, upload_model
from model.card import MAX_METRICS, salvage_card
from model.checkpoint import CARD_KEY, load_checkpoint
from model.errors import CheckpointError
from service.errors import UnfitCheckpoint
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.backup import backup
from service.upkeep.check import check
from service.upkeep.findings import FindingKind
from service.versions.registry import register

DEEP = "[" * 900 + "]" * 900
FIELDS: dict[str, str] = {
    "recipe": r'"\ud800"',
    "dataset": r'"a\u0000b"',
    "parent": json.dumps("p" * 10_000),
    "created": json.dumps("\x1b[2J"),
    "architecture": json.dumps("tiny" * 1000),
    "metrics": '{"rank1": NaN}',
    "num_identities": "1" + "0" * 400,
    "height": "-0",
    "mean": f"[{10**400}, {10**400}, {10**400}]",
    "std": "[1e-300, 1, 1]",
    "verification": DEEP,
    "compatible_with": '{"version": null}',
}
METRICS = [
    DEEP,
    '{"rank1": ' + DEEP + "}",
    '{"rank1": 1e400}',
    '{"rank1": Infinity}',
    '{"rank1": 1' + "0" * 400 + "}",
    json.dumps({"k" * 1_000: 1.0}),
    json.dumps({str(number): 0 for number in range(MAX_METRICS + 1)}),
    r'{"\udfff": 1}',
    '{"rank1": 1, "rank1": 2}',
]
HOSTILE = [
    *FIELDS.items(),
    *[("metrics", value) for value in METRICS],
    ("recipe", json.dumps("r" * 7_000_000)),
]


def with_field(like: Path, name: str, value: str, *, is_twice: bool = False) -> bytes:
    """Return a checkpoint with this JSON in a field of its card, which may be there already."""
    card = load_checkpoint(like).card.to_dict()
    if not is_twice:
        del card[name]
    return with_card(like, json.dumps(card)[:-1] + f', "{name}": {value}}}')


def with_card(like: Path, card: str, **metadata: str) -> bytes:
    return save(load_file(like), metadata={CARD_KEY: card, **metadata})


def with_header(like: Path, change: Callable[[bytes], bytes]) -> bytes:
    content = like.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = change(content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "deep": lambda header: header.replace(
        b'{"__metadata__"', b'{"deep":' + b"[" * 10**6 + b',"__metadata__"', 1
    ),
    "two cards": lambda header: header.replace(
        b'"__metadata__":', b'"__metadata__":{"card":"{}"},"__metadata__":', 1
    ),
    "many keys": lambda header: header.replace(
        b'"__metadata__":{', b'"__metadata__":{' + b"".join(b'"%d":"",' % n for n in range(100_000)), 1
    ),
    "long key": lambda header: header.replace(
        b'"__metadata__":{', b'"__metadata__":{"' + b"k" * 3_000_000 + b'":"",'
    ),
    "long name": lambda header: header.replace(b'"neck.weight"', b'"' + b"n" * 1_000_000 + b'"', 1),
    "surrogate": lambda header: header.replace(b'"neck.weight"', rb'"\ud800"', 1),
    "huge": lambda header: header.replace(b'"shape":[', b'"shape":[1' + b"0" * 5_000 + b",", 1),
}


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[Store]:
    settings = make_settings(tmp_path_factory.mktemp("cards") / "data")
    with serve(settings):
        pass
    engine = make_engine(settings.database_url)
    yield Store(settings, make_sessions(engine))
    engine.dispose()


def kept(store: Store) -> tuple[list[str], list[str], int]:
    with store.read() as session:
        num = session.scalar(text("SELECT count(*) FROM models")) or 0
    folders = (store.settings.models_dir, store.settings.cache_dir)
    models, cache = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    return models, cache, num


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_h7_a_hostile_card_is_refused_in_a_short_sentence_and_nothing_is_kept(
    store: Store, tiny_checkpoint: Path, number: int
) -> None:
    before = kept(store)
    with pytest.raises(UnfitCheckpoint) as caught:
        register(store, BytesIO(with_field(tiny_checkpoint, *HOSTILE[number])))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert kept(store) == before


@pytest.mark.parametrize("name", HEADERS)
def test_h7_a_hostile_header_is_refused_in_a_short_sentence_and_nothing_is_kept(
    store: Store, tiny_checkpoint: Path, name: str
) -> None:
    before = kept(store)
    with pytest.raises(UnfitCheckpoint) as caught:
        register(store, BytesIO(with_header(tiny_checkpoint, HEADERS[name])))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900
    assert kept(store) == before


def test_h7_a_field_that_stands_twice_is_named(store: Store, tiny_checkpoint: Path) -> None:
    with pytest.raises(UnfitCheckpoint, match="recipe stands there twice"):
        register(store, BytesIO(with_field(tiny_checkpoint, "recipe", '"other"', is_twice=True)))


def test_h7_over_http_it_is_422(client: httpx.Client, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    for name in ("recipe", "metrics", "mean", "verification"):
        path.write_bytes(with_field(tiny_checkpoint, name, FIELDS[name]))
        answer = upload_model(client, path)
        assert (answer.status_code, answer.json()["code"]) == (422, "unfit_checkpoint"), answer.text
    assert len(client.get("/models").json()["models"]) == 1


CARDS_OF_OLD = [
    {"recipe": "\ud800"},
    {"metrics": {"rank1": float("nan")}},
    {"metrics": json.loads("[" * 400 + "]" * 400)},
    {"verification": {"thresholds": "none"}, "compatible_with": "somebody"},
    {"num_identities": 10**30},
    {"mean": None},
    {"height": "tall", "embedding_size": {}},
]


def test_h7_what_older_versions_have_kept_breaks_nothing(
    either_settings: Settings, another_checkpoint: Path, tmp_path: Path
) -> None:
    """Such versions are `failed` with a sentence, and the active one goes on if its network can."""
    settings = either_settings
    with serve(settings) as client:
        enroll(client, crop(1), identity_id="anna")
        active = client.get("/models/active").json()
        version = upload_model(client, another_checkpoint).json()["version"]
        for card in CARDS_OF_OLD:
            keep(settings, version, active["card"] | card)
            known = client.get(f"/models/{version}").json()
            assert (known["state"], bool(known["failure"])) == ("failed", True), card
            assert client.get("/models").json()["models"][-1] == {
                name: value for name, value in known.items() if name != "request_id"
            }
            answer = client.post(f"/models/{version}/activate", json={"strategy": "compatible"})
            assert answer.status_code == 409, answer.text
        assert activate(client, version)["state"] == "failed"
        keep(settings, active["version"], active["card"] | CARDS_OF_OLD[3] | CARDS_OF_OLD[2])
    with serve(settings) as client:
        assert search(client, crop(1))["matches"][0]["identity_id"] == "anna"
        assert client.get("/models/active").json()["state"] == "active"
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    report = check(store)
    assert [finding.kind for finding in report.findings] == [FindingKind.model] * 2
    assert report.num_recomputed == 1
    backup(store, tmp_path / "backup")
    engine.dispose()


def keep(settings: Settings, version: str, card: dict[str, Any]) -> None:
    """Write a card into the database, as an older version of this program would have."""
    if settings.database_url.startswith("postgresql"):  # which never took what is no JSON
        card = json.loads(json.dumps(card).replace("NaN", "null"))
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE models SET card = :card WHERE version = :version"),
            {"card": json.dumps(card), "version": version},
        )
    engine.dispose()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Change a few bytes of a file, most often of its header."""
    data = bytearray(content)
    (length,) = struct.unpack("<Q", content[:8])
    card = content.index(b'"card"')
    for _ in range(rng.randint(1, 4)):
        place = rng.choice((rng.randrange(8), rng.randrange(8, 8 + length), card + rng.randrange(600)))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place : place + rng.randint(1, 9)] = b""
            case 2:
                data[place:place] = rng.choice(
                    (b"[", b"{", b'"', b"\\", b"9" * 400, b"NaN", b"-", b"\0", b"\xff")
                )
            case _:
                start = rng.randrange(8, 8 + length)
                data[place : place + 20] = data[start : start + rng.randint(1, 40)]
    if rng.random() < 0.7:  # so that the header is as long as it says
        data[:8] = struct.pack("<Q", length + len(data) - len(content))
    return bytes(data)


def test_h7_a_mutated_checkpoint_is_refused_or_as_good_as_any(
    tiny_checkpoint: Path, tmp_path: Path, is_long: bool
) -> None:
    content, path, num_refused = tiny_checkpoint.read_bytes(), tmp_path / "mutated.safetensors", 0
    num, longest = 4_000 if is_long else 250, 0
    for seed in range(num):
        path.write_bytes(mutated(content, random.Random(seed)))
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            longest, num_refused = max(longest, len(str(error))), num_refused + 1
        else:
            card = checkpoint.card.to_dict()
            json.dumps(card, allow_nan=False).encode()
            assert salvage_card(json.loads(json.dumps(card)), "it") == (checkpoint.card, "")
    assert num_refused > num / 2
    assert longest < 2_000  # the architectures are listed

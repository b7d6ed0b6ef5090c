"""Fine-tuning on the own gallery: export, train from the active network, deploy."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from draw_people import photograph
from live_server import crop, encode, enroll, make_checkpoint, serve
from model.card import Card
from model.checkpoint import load_checkpoint
from service.cli.main import app
from service.settings import Settings
from training import train
from training.data.readers import read_dataset
from training.engine.trainer import STATE_FILE
from training.options.run import fetch_active
from training.recipes.named import finetune, follow, tiny
from training.weights.deployment import DeployError

CARD = Card(architecture="tiny", height=64, width=32, embedding_size=64, num_identities=4, pooling="gem")


def pids(*counts: int) -> list[int]:
    """Return the pid of each crop, for identities with these numbers of crops."""
    return [pid for pid, count in enumerate(counts, start=1) for _ in range(count)]


def test_the_recipe_takes_the_architecture_of_its_initial_checkpoint() -> None:
    followed = follow(finetune(), CARD, pids(*[4] * 9))
    assert followed == replace(finetune(), architecture="tiny", height=64, width=32, pooling="gem")
    assert follow(tiny(), CARD, pids(1)) == tiny()
    with pytest.raises(ValueError, match="give --init FILE or --init active"):
        follow(finetune(), None, pids(2, 2))
    with pytest.raises(ValueError, match="mean and std of ImageNet"):
        follow(finetune(), replace(CARD, mean=(0.0, 0.0, 0.0)), pids(2, 2))


@pytest.mark.parametrize(
    ("counts", "batch"),
    [
        ((4,) * 9, (8, 4)),
        ((9,) * 5, (5, 4)),
        ((2, 3, 2, 3), (4, 3)),
        ((2,) * 20, (8, 2)),
        ((5, 1, 1), (2, 4)),
    ],
)
def test_batches_are_as_large_as_a_small_gallery_allows(
    counts: tuple[int, ...], batch: tuple[int, int]
) -> None:
    recipe = follow(finetune(), CARD, pids(*counts))
    assert (recipe.identities_per_batch, recipe.images_per_identity) == batch


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Iterator[httpx.Client]:
    """A gallery with a few people in two cameras each, and other people in one camera."""
    with serve(make_settings(tmp_path_factory.mktemp("service") / "data")) as client:
        for person in range(12):
            for camera in (1, 2):
                shots = [
                    encode(photograph(person, camera, shot), quality=95) for shot in range(2 + person % 2)
                ]
                enroll(client, *shots, identity_id=f"person {person}", camera_id=f"door {camera}")
        enroll(client, crop(1), identity_id="passer-by", camera_id="door 1")
        enroll(client, crop(2))
        yield client


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder of people, for tests without a service."""
    for person in range(5):
        (tmp_path / "people" / str(person)).mkdir(parents=True)
        for shot in range(2):
            (tmp_path / "people" / str(person) / f"camera-{shot}.jpg").write_bytes(crop(person, shot))
    return tmp_path / "people"


@pytest.fixture(scope="module")
def exported(service: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the identities that two cameras saw."""
    out = tmp_path_factory.mktemp("out") / "exported"
    command = ["export", "--format", "csv", "--min-cameras", "2", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--url", str(service.base_url)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_an_export_is_a_data_set_for_training_and_evaluation(exported: Path) -> None:
    dataset = read_dataset([str(exported)], needs=("train", "query", "gallery"))
    assert dataset == read_dataset([f"csv:{exported / 'gallery.csv'}"])
    assert dataset.name == "exported"
    assert len({sample.pid for sample in dataset.samples}) == 12
    assert len({sample.pid for sample in dataset.train}) == 10
    assert not {sample.pid for sample in dataset.train} & {sample.pid for sample in dataset.query}


def test_a_network_is_fine_tuned_on_an_export_and_put_in_service(
    service: httpx.Client, exported: Path, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path / "first.safetensors")
    url = str(service.base_url)
    train.main(
        "finetune",
        [str(exported)],
        tmp_path / "run",
        init=str(tmp_path / "first.safetensors"),
        device="cpu",
        workers=0,
        deploy_to=url,
        is_activated=True,
    )
    made = load_checkpoint(tmp_path / "run" / "network.safetensors")
    assert made.card.parent == load_checkpoint(tmp_path / "first.safetensors").version
    assert (made.card.architecture, made.card.recipe, made.card.num_identities) == ("tiny", "finetune", 10)
    assert 0 < made.card.metrics["mAP"] <= 100
    assert service.get("/models").json()["model_version"] == made.version


def test_the_active_network_needs_a_service(people: Path, tmp_path: Path) -> None:
    data, run = [str(people)], tmp_path / "run"
    with pytest.raises(SystemExit, match="train: --init active is the network in service: say where with"):
        train.main("finetune", data, run, init="active", device="cpu")
    with pytest.raises(SystemExit, match=r"train: the service at .* cannot be reached"):
        train.main("finetune", data, run, init="active", device="cpu", deploy_to="http://127.0.0.1:9")
    with pytest.raises(SystemExit, match="train: finetune starts from a checkpoint"):
        train.main("finetune", data, run, init="none", device="cpu")
    assert not run.exists()


def test_a_resumed_run_starts_from_its_first_download(tmp_path: Path) -> None:
    with pytest.raises(DeployError):
        fetch_active("http://127.0.0.1:9", tmp_path)
    (tmp_path / STATE_FILE).touch()
    assert fetch_active("http://127.0.0.1:9", tmp_path) == tmp_path / "active.safetensors"


def test_the_whole_loop_is_one_command(service: httpx.Client, tmp_path: Path) -> None:
    before = service.get("/models/active").json()["version"]
    out, url = tmp_path / "loop", str(service.base_url)
    done = CliRunner().invoke(app, ["retrain", "--out", str(out), "--url", url, "--even-if-worse"])
    assert done.exit_code == 0, done.output
    made = load_checkpoint(out / "run" / "network.safetensors")
    assert made.card.parent == before
    active = service.get("/models/active").json()
    assert (active["version"], active["coverage"]) == (made.version, 1.0)
    assert active["evaluation"]["num_queries"] >= 10
    again = CliRunner().invoke(app, ["retrain", "--out", str(out), "--url", url])
    assert again.exit_code == 1

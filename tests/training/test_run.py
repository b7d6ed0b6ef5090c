"""Training, evaluation, distillation and deployment by their commands, on generated people."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openvino
import pytest
import torch
from PIL import Image

from live_server import crop, enroll, person, search, serve, wait_until
from model.checkpoint import load_checkpoint
from model.embedder import Embedder, normalise_rows
from model.runtime import convert
from service.settings import Settings
from training import deploy as deploy_command
from training import embed, evaluate, train
from training.data.datasets import open_crop
from training.data.readers import read_market1501
from training.engine.errors import TrainingError
from training.engine.evaluation import EmbeddedSplits, embed_test, evaluate_splits
from training.engine.trainer import Trainer
from training.metrics.ranking import evaluate_distmat
from training.metrics.reranking import rerank_distances
from training.recipes.named import tiny
from training.recipes.recipe import Recipe
from training.weights.deployment import DeployError, deploy
from training.weights.foreign import EmbeddingsError, open_network
from training.weights.teachers import EmbeddingsTeacher, load_teacher_embeddings
from training_command import start_command


def write_people(folder: Path, pids: range, cameras: range, images: int) -> None:
    folder.mkdir(parents=True)
    for pid in pids:
        for camera in cameras:
            for image in range(images):
                name = f"{pid:04d}_c{camera}s1_{image:06d}_00.jpg"
                (folder / name).write_bytes(crop(pid, 1 + 10 * camera + image))


def read_log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Market-1501: 8 people for training, 5 others for testing."""
    root = tmp_path_factory.mktemp("people")
    write_people(root / "bounding_box_train", range(1, 9), range(1, 3), 2)
    write_people(root / "query", range(21, 26), range(1, 2), 1)
    write_people(root / "bounding_box_test", range(21, 26), range(1, 4), 1)
    write_people(root / "distractors", range(1), range(1, 3), 1)
    for path in (root / "distractors").iterdir():
        path.rename(root / "bounding_box_test" / path.name)
    (root / "bounding_box_test" / "-1_c1s1_000009_00.jpg").write_bytes(crop(21, 99))
    return root


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    output = tmp_path_factory.mktemp("runs") / "first"
    train.main("tiny", [str(people)], output, init="none", device="cpu")
    return output


def test_a_run_writes_a_network_its_recipe_and_a_log(run: Path) -> None:
    checkpoint = load_checkpoint(run / "network.safetensors")
    assert checkpoint.card.architecture == "tiny"
    assert checkpoint.card.num_identities == 8
    assert checkpoint.card.dataset == "market1501"
    assert set(checkpoint.card.metrics) == {
        "rank1",
        "rank5",
        "rank10",
        "mAP",
        "mAP_trapezoid",
        "mINP",
    }
    verification = checkpoint.card.verification
    assert verification is not None
    assert [row["fmr"] for row in verification["thresholds"]] == [1e-1, 1e-2, 1e-3, 1e-4]
    assert verification["data"] == "market1501, its test split"
    assert Recipe(**json.loads((run / "recipe.json").read_text())) == tiny()
    log = read_log(run)
    assert [line["epoch"] for line in log] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in log)


def test_a_run_writes_events_curves_ranked_lists_and_a_page(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    pictures = {"curve-loss.png", "curve-mAP.png", "ranked-worst.png", "ranked-random.png", "attention.png"}
    assert names >= {"environment.json", "report.html", *pictures}
    assert list((run / "tensorboard").iterdir())
    environment = json.loads((run / "environment.json").read_text())
    assert environment["dataset"]["query"] == {"images": 5, "identities": 5}
    metrics = load_checkpoint(run / "network.safetensors").card.metrics
    assert f"{metrics['mAP']:.2f}" in (run / "report.html").read_text()


def test_a_run_starts_from_a_network_of_another_input_size(run: Path, people: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(tiny(), height=96, width=48, num_epochs=1).to_json())
    options = {"init": str(run / "network.safetensors"), "device": "cpu", "workers": 0}
    with pytest.raises(SystemExit, match="give --resize-relations"):
        train.main(str(recipe), [str(people)], tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
    train.main(str(recipe), [str(people)], tmp_path / "run", **options, resize_relations=True)  # type: ignore[arg-type]
    checkpoint = load_checkpoint(tmp_path / "run" / "network.safetensors")
    assert (checkpoint.card.height, checkpoint.card.width) == (96, 48)
    assert checkpoint.card.parent == load_checkpoint(run / "network.safetensors").version


def test_training_lowers_the_loss(people: Path, tmp_path: Path) -> None:
    recipe = replace(tiny(), num_epochs=12, learning_rate=1e-2, erasing_probability=0.0)
    Trainer(recipe, read_market1501(people), tmp_path / "run").fit()
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_evaluation_prints_json_for_machines(
    run: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([run / "network.safetensors"], [str(people)], as_json=True)
    metrics = json.loads(capsys.readouterr().out)
    assert set(metrics) >= {"rank1", "rank5", "rank10", "mAP"}
    assert 0 < metrics["mAP"] <= 100


def test_a_flip_test_averages_each_crop_with_its_mirror_image(run: Path, people: Path) -> None:
    dataset, embedder = read_market1501(people), Embedder(load_checkpoint(run / "network.safetensors"))
    flipped = embed_test(embedder, dataset, with_flip=True)
    crops = [open_crop(sample.path) for sample in dataset.query]
    mirrored = embedder.embed([crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops])
    np.testing.assert_allclose(flipped.query, normalise_rows(embedder.embed(crops) + mirrored), atol=1e-6)


def test_metrics_with_reranking_are_those_of_the_reranked_distances(people: Path) -> None:
    dataset, rng = read_market1501(people), np.random.default_rng(0)
    sizes = len(dataset.query), len(dataset.gallery)
    query, gallery = (normalise_rows(rng.standard_normal((n, 6), np.float32)) for n in sizes)
    qg, qq, gg = (
        np.linalg.norm(left[:, None] - right[None], axis=2)
        for left, right in ((query, gallery), (query, query), (gallery, gallery))
    )
    labels = [
        np.array([getattr(s, name) for s in part])
        for name in ("pid", "camid")
        for part in (dataset.query, dataset.gallery)
    ]
    expected = evaluate_distmat(rerank_distances(qg, qq, gg), *labels).percent()
    splits = EmbeddedSplits(query, gallery)
    reranked = evaluate_splits(splits, dataset, is_reranked=True)
    assert reranked == {name: round(value, 2) for name, value in expected.items()}
    assert reranked != evaluate_splits(splits, dataset)


def test_the_command_takes_flip_and_rerank_together(
    run: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([run / "network.safetensors"], [str(people)], flip=True, rerank=True, as_json=True)
    assert set(json.loads(capsys.readouterr().out)) >= {"rank1", "mAP", "mAP_trapezoid", "mINP"}


def test_the_command_resumes_a_killed_run(people: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(replace(tiny(), num_epochs=6).to_json())
    options = ["--recipe", recipe, "--data", people, "--init", "none", "--device", "cpu", "--output", output]
    process = start_command("train", *options, folder=tmp_path)
    wait_until(lambda: (output / "state.pt").exists() or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (output / "network.safetensors").exists()
    train.main(str(recipe), [str(people)], output, init="none", device="cpu", resume=True)
    assert [line["epoch"] for line in read_log(output)] == [1, 2, 3, 4, 5, 6]
    assert (output / "network.safetensors").exists()


def test_a_folder_with_a_run_is_not_overwritten(run: Path, people: Path) -> None:
    before = (run / "network.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="add --resume"):
        train.main("tiny", [str(people)], run, init="none", device="cpu")
    recipe = replace(tiny(), learning_rate=0.5)
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(recipe, read_market1501(people), run).fit(resume=True)
    assert (run / "network.safetensors").read_bytes() == before


def test_unusable_input_ends_in_a_clear_error(people: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"train: no recipe 'big'"):
        train.main("big", [str(people)], tmp_path / "run", init="none")
    with pytest.raises(SystemExit, match="no known data set"):
        train.main("tiny", [str(tmp_path)], tmp_path / "run", init="none")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(replace(tiny(), identities_per_batch=16).to_json())
    with pytest.raises(SystemExit, match="takes 16 identities, the data have 8"):
        train.main(str(recipe), [str(people)], tmp_path / "run", init="none")


def test_a_loss_that_is_not_finite_stops_the_run(people: Path, tmp_path: Path) -> None:
    recipe = replace(tiny(), learning_rate=1e30, warmup_epochs=0.0)
    with pytest.raises(TrainingError, match="the loss became"):
        Trainer(recipe, read_market1501(people), tmp_path / "run").fit()


def test_embed_writes_the_training_crops_in_order(run: Path, people: Path, tmp_path: Path) -> None:
    embed.main(run / "network.safetensors", [str(people)], tmp_path / "teacher.npz")
    dataset = read_market1501(people)
    teacher = load_teacher_embeddings(tmp_path / "teacher.npz", dataset)
    embedder = Embedder(load_checkpoint(run / "network.safetensors"))
    expected = embedder.embed([open_crop(sample.path) for sample in dataset.train])
    np.testing.assert_allclose(teacher.numpy(), expected, atol=0.02)


def test_a_student_comes_closer_to_its_teacher(people: Path, tmp_path: Path) -> None:
    dataset = read_market1501(people)
    labels = torch.tensor([sample.pid for sample in dataset.train])
    torch.manual_seed(0)
    teacher = torch.randn(10, 16)[labels]
    recipe = replace(tiny(), num_epochs=10, learning_rate=1e-2, erasing_probability=0.0)
    recipe = replace(recipe, teacher_relations_weight=40.0)
    Trainer(recipe, dataset, tmp_path / "run", teacher=EmbeddingsTeacher(teacher, torch.device("cpu"))).fit()
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    # the first loss is about 30, of which at most 2.5 comes from the labels and the rest from the teacher
    assert losses[0] > 15
    assert losses[-1] < 0.6 * losses[0]


def test_a_file_without_every_training_crop_is_refused(people: Path, tmp_path: Path) -> None:
    dataset = read_market1501(people)
    with pytest.raises(EmbeddingsError, match=r"not a file that training/embed\.py wrote"):
        load_teacher_embeddings(tmp_path / "absent.npz", dataset)
    np.savez(tmp_path / "other.npz", paths=np.array(["a.jpg"]), embeddings=np.ones((1, 4), np.float32))
    with pytest.raises(EmbeddingsError, match="lacks 32 of 32 training crops"):
        load_teacher_embeddings(tmp_path / "other.npz", dataset)
    (tmp_path / "torn.npz").write_bytes(b"PK torn")
    with pytest.raises(EmbeddingsError, match=r"not a file that training/embed\.py wrote"):
        load_teacher_embeddings(tmp_path / "torn.npz", dataset)


def test_a_foreign_network_gets_the_requested_channels_and_scale(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run / "network.safetensors")
    openvino.save_model(
        convert(checkpoint.network, (3, 64, 32)), tmp_path / "foreign.xml", compress_to_fp16=False
    )
    image = person(3).resize((32, 64))
    flipped = Image.merge("RGB", image.split()[::-1])
    as_rgb = open_network(tmp_path / "foreign.xml", mean=10.0, scale=50.0, is_bgr=False)
    as_bgr = open_network(tmp_path / "foreign.xml", mean=10.0, scale=50.0, is_bgr=True)
    np.testing.assert_allclose(as_bgr([image]), as_rgb([flipped]), atol=1e-5)
    assert np.abs(as_bgr([image]) - as_rgb([image])).max() > 0.05
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = checkpoint.network((pixels - 10) / 50)[0].numpy()
    np.testing.assert_allclose(as_rgb([image])[0], expected / np.linalg.norm(expected), atol=2e-2)


def test_a_file_that_is_not_a_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(b"not a network")
    with pytest.raises(EmbeddingsError, match="no ONNX or OpenVINO IR network"):
        open_network(tmp_path / "network.onnx", mean=0, scale=1, is_bgr=True)


@pytest.fixture
def service(settings: Settings) -> Iterator[httpx.Client]:
    with serve(settings) as client:
        yield client


def test_a_trained_network_is_swapped_into_the_live_service(service: httpx.Client, run: Path) -> None:
    enroll(service, crop(1), identity_id="anna")
    before = search(service, crop(1, 5))["model_version"]
    version = deploy(run / "network.safetensors", str(service.base_url))
    answer = search(service, crop(1, 5))
    assert before != answer["model_version"] == version
    assert answer["matches"][0]["identity_id"] == "anna"
    assert answer["num_searched"] == 1


def test_the_command_registers_a_network_and_leaves_the_old_one_in_service(
    service: httpx.Client, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(service.base_url)
    deploy_command.main(run / "network.safetensors", url)
    assert f"is registered at {url}" in capsys.readouterr().out
    assert [version["state"] for version in service.get("/models").json()["models"]].count("active") == 1
    with pytest.raises(SystemExit, match="--require-better needs --activate"):
        deploy_command.main(run / "network.safetensors", url, require_better=True)
    with pytest.raises(SystemExit, match=r"deploy: .*absent"):
        deploy_command.main(run / "absent.safetensors", url)


def test_a_refusal_by_the_service_is_reported(service: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "network.safetensors").write_bytes(b"not a network")
    with pytest.raises(DeployError, match="the service answered 422"):
        deploy(tmp_path / "network.safetensors", str(service.base_url))
    with pytest.raises(DeployError, match="cannot be reached"):
        deploy(tmp_path / "network.safetensors", "http://127.0.0.1:9")

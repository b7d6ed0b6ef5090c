"""The report of a run: log, TensorBoard events, curves, ranked lists and the page."""

import base64
import json
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from draw_people import draw_person
from live_server import make_checkpoint
from model.checkpoint import load_checkpoint
from references import loop_metrics
from training import report
from training.data.datasets import ReidDataset, Sample
from training.engine.evaluation import EmbeddedSplits, evaluate_splits
from training.engine.run_log import RunLog, find_commit, read_log
from training.engine.trainer import Trainer
from training.recipes.named import tiny
from training.reports.curves import draw_curves
from training.reports.page import write_report
from training.reports.ranked_lists import (
    CROP_HEIGHT,
    CROP_WIDTH,
    FRAME,
    GAP,
    GREEN,
    GREY,
    MARGIN,
    QUERY_GAP,
    RED,
    Ranking,
    choose_queries,
    draw_ranked_lists,
)

HOSTILE = "<img src=x onerror=alert(1)>&amp;'\".jpg"


def make_samples(folder: Path, labels: list[tuple[int, int]], *, name: str = "") -> tuple[Sample, ...]:
    folder.mkdir(parents=True)
    samples = []
    for number, (pid, camid) in enumerate(labels):
        path = folder / f"{number:02d}{name or '.jpg'}"
        draw_person(pid, 10 * camid + number).save(path)
        samples.append(Sample(path, pid, camid))
    return tuple(samples)


def random_embeddings(dataset: ReidDataset, seed: int = 0) -> EmbeddedSplits:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(len(samples), 8)) for samples in (dataset.query, dataset.gallery)]
    query, gallery = ((r / np.linalg.norm(r, axis=1, keepdims=True)).astype(np.float32) for r in rows)
    return EmbeddedSplits(query, gallery)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReidDataset:
    """12 queries and their gallery. One query has no match, and one has a hostile file name."""
    root = tmp_path_factory.mktemp("people")
    query = [(pid, 1) for pid in range(1, 13)]
    gallery = [(pid, camid) for pid in range(1, 12) for camid in (1, 2, 3)]
    return ReidDataset(
        "drawn",
        root,
        make_samples(root / "train", [(20, 1), (20, 2), (21, 1), (21, 2)]),
        make_samples(root / "query", query, name=HOSTILE),
        make_samples(root / "gallery", [*gallery, (12, 1), (0, 2), (-1, 2)]),
    )


def write_run(folder: Path, dataset: ReidDataset) -> None:
    folder.mkdir()
    (folder / "recipe.json").write_text(tiny().to_json())
    log = RunLog(folder)
    log.start(dataset, seed=0)
    log.epoch({"epoch": 1, "loss": 3.0, "accuracy": 10.0, "learning_rate": 1e-3})
    log.epoch({"epoch": 2, "loss": 2.0, "accuracy": 30.0, "learning_rate": 1e-4})
    log.flush()
    log.close()


@pytest.fixture(scope="module")
def finished(people: ReidDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its report."""
    folder = tmp_path_factory.mktemp("runs") / "<b>run"
    write_run(folder, people)
    make_checkpoint(folder / "network.safetensors")
    checkpoint, embeddings = load_checkpoint(folder / "network.safetensors"), random_embeddings(people)
    write_report(folder, checkpoint, people, embeddings, evaluate_splits(embeddings, people))
    return folder


class Page(HTMLParser):
    """The elements of a page by tag, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(attribute)) is not None]


def test_a_resumed_run_deletes_the_epochs_that_it_repeats_from_its_log(
    people: ReidDataset, tmp_path: Path
) -> None:
    first = RunLog(tmp_path)
    first.start(people, seed=0)
    for epoch in (1, 2, 3):
        for step in (1, 2, 3):
            first.step({"epoch": epoch, "step": step, "loss": 1.0})
        first.epoch({"epoch": epoch, "loss": 10.0 + epoch})
        first.flush()
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 4, "lo')
    started_s = int(time.time())
    while int(time.time()) == started_s:  # TensorBoard puts files in order by the second in their names
        time.sleep(0.01)
    second = RunLog(tmp_path)
    second.start(people, seed=0, epoch=2, step=1)
    assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2]
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    places = [(line["epoch"], line["step"]) for line in steps]
    assert places == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)]
    second.epoch({"epoch": 3, "loss": 0.5})
    second.flush()
    assert [line["loss"] for line in read_log(tmp_path)] == [11.0, 12.0, 0.5]
    second.flush()
    second.close()
    assert len(read_log(tmp_path)) == 3  # each line is written once
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 11), (2, 12), (3, 0.5)]


def test_a_resumed_trainer_shortens_its_log(people: ReidDataset, tmp_path: Path) -> None:
    recipe = replace(tiny(), num_epochs=1, identities_per_batch=2)
    Trainer(recipe, people, tmp_path / "run").fit()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 2, "loss": 1.0}\n{"epoch": 3, "l')
    Trainer(recipe, people, tmp_path / "run").fit(resume=True)
    (line,) = read_log(tmp_path / "run")
    assert line["epoch"] == 1
    assert line["learning_rate"] > 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["resumed_after"] == [1, 0]
    assert [start["resumed_after"] for start in environment["earlier_starts"]] == [[0, 0]]


def test_a_log_that_is_damaged_before_its_last_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not the record of an epoch"):
        read_log(tmp_path)


def test_the_environment_has_versions_machine_and_data_but_no_environment_variables(
    people: ReidDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "do-not-tell")
    write_run(tmp_path / "run", people)
    text = (tmp_path / "run" / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["seed"] == 0
    assert environment["dataset"]["name"] == "drawn"
    assert environment["dataset"]["gallery"] == {"images": 36, "identities": 14}
    assert environment["cpu"]["name"]
    assert environment["command"]
    assert "do-not-tell" not in text


def test_the_commit_is_that_of_this_checkout(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    assert find_commit(tmp_path) is None
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert find_commit(tmp_path) == head.stdout.strip()
    (tmp_path / "file").write_text("two")
    assert find_commit(tmp_path) == head.stdout.strip() + "-dirty"
    (tmp_path / "inner").mkdir()
    assert find_commit(tmp_path / "inner") is None


def test_frames_are_green_exactly_where_the_identity_is_the_same(people: ReidDataset) -> None:
    embeddings = random_embeddings(people)
    ranking = Ranking(people, embeddings)
    lists = [ranking.rank(position) for position in range(3)]
    image = draw_ranked_lists(lists)
    row_height = (image.height - 2 * MARGIN + GAP) // 3
    colors = set()
    for position in range(3):
        query, top = people.query[position], MARGIN + position * row_height
        assert image.getpixel((MARGIN + 1, top + 1)) == GREY
        scores = embeddings.gallery @ embeddings.query[position]
        expected = [
            people.gallery[item]
            for item in sorted(range(len(scores)), key=lambda item: -scores[item])
            if people.gallery[item].pid != -1
            and (people.gallery[item].pid, people.gallery[item].camid) != (query.pid, query.camid)
        ]
        for column, sample in enumerate(expected[:10], start=1):
            left = MARGIN + QUERY_GAP + column * (CROP_WIDTH + 2 * FRAME + GAP)
            color = GREEN if sample.pid == query.pid else RED
            corners = [(left, top), (left + CROP_WIDTH + 2 * FRAME - 1, top + CROP_HEIGHT + 2 * FRAME - 1)]
            assert [image.getpixel(corner) for corner in corners] == [color, color]
            inner = (left + FRAME, top + FRAME, left + FRAME + CROP_WIDTH, top + FRAME + CROP_HEIGHT)
            with Image.open(sample.path) as crop:
                shown = crop.resize((CROP_WIDTH, CROP_HEIGHT), Image.Resampling.BICUBIC)
            assert image.crop(inner).tobytes() == shown.tobytes()
            colors.add(color)
    assert colors == {GREEN, RED}


def test_the_worst_queries_are_those_of_the_lowest_ap() -> None:
    rng = np.random.default_rng(1)
    q_pids, q_camids = rng.integers(1, 30, 300), rng.integers(1, 4, 300)
    g_pids, g_camids = rng.integers(-1, 30, 90), rng.integers(1, 4, 90)
    query, gallery = (
        tuple(Sample(Path("none.jpg"), int(pid), int(camid)) for pid, camid in zip(pids, camids, strict=True))
        for pids, camids in ((q_pids, q_camids), (g_pids, g_camids))
    )
    dataset = ReidDataset("numbers", Path(), (), query, gallery)
    embeddings = random_embeddings(dataset)
    precisions = Ranking(dataset, embeddings).average_precisions()
    expected: dict[int, float] = {}
    for position, sample in enumerate(query):
        if any(other.pid == sample.pid and other.camid != sample.camid for other in gallery):
            distances = 1 - embeddings.query[[position]] @ embeddings.gallery.T
            one = slice(position, position + 1)
            expected[position] = loop_metrics(distances, q_pids[one], g_pids, q_camids[one], g_camids)[1]
    assert 0 < len(expected) < 300
    assert np.flatnonzero(~np.isnan(precisions)).tolist() == list(expected)
    np.testing.assert_allclose(precisions[list(expected)], list(expected.values()))
    assert evaluate_splits(embeddings, dataset)["mAP"] == pytest.approx(
        100 * np.nanmean(precisions), abs=0.01
    )
    worst, random = choose_queries(precisions, seed=3)
    assert worst == sorted(expected, key=lambda position: expected[position])[:10]
    assert len(set(random)) == 10
    assert set(random) <= set(expected)
    assert random == choose_queries(precisions, seed=3)[1] != choose_queries(precisions, seed=4)[1]


def test_the_page_has_every_part_and_loads_no_other_file(finished: Path) -> None:
    page = Page((finished / "report.html").read_text())
    parts = {"metrics", "curves", "worst", "random", "attention", "recipe", "environment"}
    assert parts <= set(page.values("id"))
    pictures = {path.read_bytes() for path in finished.glob("*.png")}
    head = "data:image/png;base64,"
    sources = page.values("src")
    assert all(source.startswith(head) for source in sources)
    assert {base64.b64decode(source.removeprefix(head)) for source in sources} == pictures
    assert all(link.startswith("#") for link in page.values("href"))
    names = {path.name for path in finished.glob("*.png")}
    assert names >= {"curve-loss.png", "curve-mAP.png", "ranked-worst.png", "attention.png"}
    for text in ("mAP_trapezoid", "identities_per_batch", "packages torch", "contains crops of people from"):
        assert text in page.text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}


def test_names_on_the_page_are_escaped(finished: Path) -> None:
    page = Page((finished / "report.html").read_text())
    assert f"query/00{HOSTILE}" in page.text
    assert "<b>run" in page.text
    assert "b" not in {tag for tag, _ in page.elements}
    assert not page.values("onerror")


def test_a_query_that_no_other_camera_saw_is_not_among_the_worst(finished: Path) -> None:
    page = Page((finished / "report.html").read_text())
    assert f"query/11{HOSTILE}" not in page.text


def test_the_page_of_a_network_without_attention_says_so(people: ReidDataset, tmp_path: Path) -> None:
    write_run(tmp_path / "run", people)
    make_checkpoint(tmp_path / "osnet.safetensors", architecture="osnet")
    embeddings = random_embeddings(people)
    checkpoint = load_checkpoint(tmp_path / "osnet.safetensors")
    path = write_report(tmp_path / "run", checkpoint, people, embeddings, evaluate_splits(embeddings, people))
    assert "osnet has no spatial attention" in path.read_text()
    assert not (tmp_path / "run" / "attention.png").exists()


def test_a_report_of_an_unfinished_run_ends_in_a_clear_error(people: ReidDataset, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"report: .* holds no known data set"):
        report.main(tmp_path, [str(tmp_path)])
    embeddings = random_embeddings(people)
    make_checkpoint(tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=r"recipe.json cannot be read, though every run has this file"):
        write_report(
            tmp_path, load_checkpoint(tmp_path / "network.safetensors"), people, embeddings, {"mAP": 1.0}
        )


def test_each_value_of_the_log_has_a_curve() -> None:
    log = [{"epoch": 1, "loss": 3.0, "held_out_mAP": 40.0}, {"epoch": 2, "loss": 2.0, "learning_rate": 1e-3}]
    curves = draw_curves(log, {"rank1": 60.0, "mAP": 50.0})
    assert sorted(curves) == ["learning_rate", "loss", "mAP"]
    for png in curves.values():
        with Image.open(BytesIO(png)) as image:
            assert image.width > 500
    other = draw_curves([log[0], log[1] | {"loss": 1.0}], {"rank1": 60.0, "mAP": 50.0})
    assert {name for name in curves if curves[name] != other[name]} == {"loss"}
    other = draw_curves([log[0] | {"held_out_mAP": 45.0}, log[1]], {"rank1": 60.0, "mAP": 50.0})
    assert {name for name in curves if curves[name] != other[name]} == {"mAP"}
    other = draw_curves([log[0] | {"held_out_rank10": 90.0}, log[1]], {"rank1": 60.0, "mAP": 50.0})
    assert curves == other  # rank-10 is not drawn
    assert list(draw_curves([], {"mAP": 50.0})) == ["mAP"]

"""evaluate.py: several networks on several data sets, and queries of several images."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from live_server import crop
from model.architectures import build_network
from model.card import Card
from model.checkpoint import load_checkpoint, save_checkpoint
from model.embedder import Embedder
from references import loop_metrics, loop_minp, loop_pooled
from training import evaluate
from training.data.datasets import DatasetError, Sample, open_crop
from training.data.readers import read_dataset, read_market1501, read_query_boxes
from training.engine.evaluation import embed_test

PIDS, CAMIDS = range(21, 29), (1, 2, 3)


def write_crop(folder: Path, pid: int, camid: int, image: int, look: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{pid:04d}_c{camid}s1_{image:06d}_00.jpg"
    (folder / name).write_bytes(crop(look, 1 + 100 * pid + 10 * camid + image))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Market-1501, with hand-drawn boxes; some crops resemble other people."""
    root = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)

    def write(folder: str, pid: int, camid: int, image: int, likeness: float) -> None:
        look = pid if rng.random() < likeness else int(rng.choice(PIDS))
        write_crop(root / folder, pid, camid, image, look)

    write("bounding_box_train", 1, 1, 0, 1.0)
    for pid in PIDS:
        for camid in CAMIDS:
            write("query", pid, camid, 0, 0.5)
            name = f"{pid:04d}_c{camid}s1_000000_00.jpg"
            write("gt_bbox", pid, camid, 0, 1.0)
            (root / "gt_bbox" / name).write_bytes((root / "query" / name).read_bytes())
            for image in range(1, 1 + pid % 4):
                write("gt_bbox", pid, camid, image, 0.7)
            for image in range(2):
                write("bounding_box_test", pid, camid, image, 0.6)
    write("gt_bbox", 1, 1, 0, 1.0)  # a box of a training person, from a camera without a query
    write("gt_bbox", 21, 4, 0, 1.0)
    write("bounding_box_test", 0, 2, 0, 0.0)
    return root


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of people with up to three queries in each camera."""
    root = tmp_path_factory.mktemp("site")
    lines = ["path,identity_id,camera_id,split", "a.jpg,zoe,1,train"]
    (root / "a.jpg").write_bytes(crop(99))
    rng = np.random.default_rng(1)
    for person in range(6):
        for camera in range(2):
            for split, count in (("query", 1 + person % 3), ("gallery", 2)):
                for image in range(count):
                    name = f"{split}-{person}-{camera}-{image}.jpg"
                    look = 50 + (person if rng.random() < 0.6 else int(rng.integers(6)))
                    (root / name).write_bytes(crop(look, 1 + len(lines)))
                    lines.append(f"{name},p{person},{camera},{split}")
    (root / "site.csv").write_text("\n".join(lines))
    return root / "site.csv"


def run(capsys: pytest.CaptureFixture[str], networks: list[Path], data: list[Path], **options: Any) -> Any:
    evaluate.main(networks, [str(path) for path in data], device="torch-cpu", as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def evaluate_slowly(
    network: Path, queries: list[list[Sample]], gallery: tuple[Sample, ...]
) -> dict[str, float]:
    """Return the metrics of queries of several images each, by plain loops over single images."""
    embedder = Embedder(load_checkpoint(network), "torch-cpu")

    def embed(sample: Sample) -> list[float]:
        row: list[float] = embedder.embed([open_crop(sample.path)])[0].tolist()
        return row

    rows = [loop_pooled([embed(sample) for sample in samples]) for samples in queries]
    others = [embed(sample) for sample in gallery]
    distmat = [[1 - sum(a * b for a, b in zip(row, other, strict=True)) for other in others] for row in rows]
    first = [samples[0] for samples in queries]
    labels = [
        np.array([getattr(sample, name) for sample in part])
        for name in ("pid", "camid")
        for part in (first, gallery)
    ]
    cmc, mean_ap = loop_metrics(np.array(distmat), *labels)
    minp = loop_minp(np.array(distmat), *labels)
    fractions = {"rank1": cmc[0], "rank5": cmc[4], "mAP": mean_ap, "mINP": minp}
    return {name: 100 * value for name, value in fractions.items()}


def test_a_multi_query_of_market1501_is_the_mean_of_its_hand_drawn_boxes(
    tiny_checkpoint: Path, market: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = read_market1501(market)
    boxes = [
        [
            Sample(path, sample.pid, sample.camid)
            for path in (market / "gt_bbox").iterdir()
            if path.name.startswith(f"{sample.pid:04d}_c{sample.camid}s")
        ]
        for sample in dataset.query
    ]
    assert len(boxes) == 24
    assert {len(samples) for samples in boxes} == {1, 2, 3, 4}
    figures = run(capsys, [tiny_checkpoint], [market], multi_query=True)
    assert figures["queries"] == "multi, of gt_bbox"
    expected = evaluate_slowly(tiny_checkpoint, boxes, dataset.gallery)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=0.01)
    single = run(capsys, [tiny_checkpoint], [market])
    assert single["queries"] == "single"
    expected = evaluate_slowly(tiny_checkpoint, [[sample] for sample in dataset.query], dataset.gallery)
    assert {name: single[name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert single["mAP"] < figures["mAP"] - 1


def test_a_multi_query_of_another_set_is_the_mean_of_its_queries(
    tiny_checkpoint: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = read_dataset([str(manifest)])
    groups = [
        [sample for sample in dataset.query if (sample.pid, sample.camid) == pair]
        for pair in sorted({(sample.pid, sample.camid) for sample in dataset.query})
    ]
    assert sorted(len(samples) for samples in groups) == [1] * 4 + [2] * 4 + [3] * 4
    figures = run(capsys, [tiny_checkpoint], [manifest], multi_query=True)
    assert figures["queries"] == "multi, of the query split"
    expected = evaluate_slowly(tiny_checkpoint, groups, dataset.gallery)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert figures["mAP"] != run(capsys, [tiny_checkpoint], [manifest])["mAP"]


def test_without_the_boxes_of_market1501_the_table_says_that_queries_were_pooled(
    tiny_checkpoint: Path, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / name).symlink_to(market / name)
    figures = run(capsys, [tiny_checkpoint], [tmp_path], multi_query=True, flip=True, rerank=True)
    assert figures["queries"] == "multi, of the query split"
    (tmp_path / "gt_bbox").mkdir()
    write_crop(tmp_path / "gt_bbox", 21, 1, 0, 21)
    with pytest.raises(SystemExit, match=r"gt_bbox has no box for 23 of 24 queries, such as 0021_c2"):
        run(capsys, [tiny_checkpoint], [tmp_path], multi_query=True)
    with pytest.raises(DatasetError, match="extract it again"):
        read_query_boxes(read_market1501(tmp_path))


def test_several_networks_and_data_sets_give_the_metrics_of_each_pair_alone(
    tiny_checkpoint: Path, market: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    network = build_network("tiny", height=64, width=32, num_identities=3)
    card = Card(
        architecture="tiny",
        height=64,
        width=32,
        embedding_size=network.embedding_size,
        num_identities=3,
        dataset="msmt17",
    )
    save_checkpoint(tmp_path / "ours.safetensors", network, card)
    networks, data = [tiny_checkpoint, tmp_path / "ours.safetensors"], [market, manifest]
    rows = run(capsys, networks, data)
    assert rows == [run(capsys, [one], [other]) for one in networks for other in data]
    assert [(row["trained_on"], row["tested_on"]) for row in rows] == [
        ("not said", "market1501"),
        ("not said", "site"),
        ("msmt17", "market1501"),
        ("msmt17", "site"),
    ]
    assert [row["checkpoint"] for row in rows] == [str(path) for path in networks for _ in data]
    assert len({row["mAP"] for row in rows}) == 4


def test_pairs_are_those_of_the_evaluated_embeddings(
    tiny_checkpoint: Path, market: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(capsys, [tiny_checkpoint], [market, manifest], with_pairs=True, rerank=True)
    embedder, dataset = Embedder(load_checkpoint(tiny_checkpoint), "torch-cpu"), read_dataset([str(market)])
    queries, gallery = embed_test(embedder, dataset)
    same, different = [
        [
            math.floor(float(queries[q] @ gallery[g]) * 10_000) / 10_000
            for q, query in enumerate(dataset.query)
            for g, item in enumerate(dataset.gallery)
            if (query.pid == item.pid) == is_same and (query.camid != item.camid or not is_same)
        ]
        for is_same in (True, False)
    ]
    assert [row["target"] for row in first["thresholds"]] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    for row in first["thresholds"][:2]:
        at = row["cosine"] - 1e-9
        assert row["false_match_rate"] == pytest.approx(np.mean(np.array(different) > at), abs=1e-3)
        assert row["false_non_match_rate"] == pytest.approx(np.mean(np.array(same) < at), abs=1e-2)
    medians = next(row for row in first["quantiles"] if row["quantile"] == 0.5)
    assert medians["same"] == pytest.approx(np.median(same), abs=1e-2)
    assert second["thresholds"] != first["thresholds"]
    evaluate.main([tiny_checkpoint], [str(market)], device="torch-cpu", with_pairs=True)
    assert f"{first['thresholds'][1]['cosine']:.4g}" in capsys.readouterr().out


def test_the_table_has_a_row_for_a_small_gallery_without_rank_10(
    tiny_checkpoint: Path,
    market: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["path,identity_id,camera_id,split", "1.jpg,a,1,query", "2.jpg,a,2,gallery", "3.jpg,b,2,gallery"]
    for number in (1, 2, 3):
        (tmp_path / f"{number}.jpg").write_bytes(crop(number))
    (tmp_path / "[small].csv").write_text("\n".join(lines))
    monkeypatch.setenv("COLUMNS", "200")
    data = [str(tmp_path / "[small].csv"), str(market)]
    evaluate.main([tiny_checkpoint], data, device="torch-cpu", multi_query=True)
    table = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    small, market1501 = [cells for cells in table if cells and cells[0] == "not said"]
    assert small[1] == "[small]"
    assert [bool(cell) for cell in small[2:]] == [True, False, False, True, True, True]
    assert market1501[1] == "market1501"
    assert all(0 < float(cell) <= 100 for cell in market1501[2:])
    assert [cells[1] for cells in table if cells and cells[1].startswith("multi")] == [
        "multi, of the query split",
        "multi, of gt_bbox",
    ]


@pytest.mark.parametrize("bad", ["network", "data", "queries"])
def test_unusable_input_is_reported_before_anything_is_embedded(
    bad: str, tiny_checkpoint: Path, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks, data = [tiny_checkpoint], [str(market)]
    if bad == "network":
        networks.append(tmp_path / "absent.safetensors")
    if bad == "data":
        data.append(str(tmp_path / "absent"))
    if bad == "queries":
        (tmp_path / "1.jpg").write_bytes(crop(1))
        (tmp_path / "one.csv").write_text("path,identity_id,split\n1.jpg,a,gallery")
        data.append(str(tmp_path / "one.csv"))
    with pytest.raises(SystemExit) as end:
        evaluate.main(networks, data, device="torch-cpu")
    line = str(end.value.code)
    assert line.startswith("evaluate: ")
    assert "\n" not in line
    expected = {"network": "absent.safetensors cannot be read", "data": "absent is not there"}
    assert expected.get(bad, "one has no query split") in line
    assert "━" not in capsys.readouterr().err  # no progress bar, because nothing was embedded

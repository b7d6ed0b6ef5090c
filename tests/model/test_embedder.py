"""Embedding images, in every runtime that this machine has."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.architectures import build_network
from model.card import Card
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from model.embedder import Embedder
from model.errors import RuntimeUnavailable
from model.preprocess import Preprocess
from model.runtime import OpenVinoRuntime, cpu_has_bf16
from references import DATA

RUNTIMES = [("cpu", "fp32"), ("torch-cpu", "fp32")]


def make_crops(count: int, seed: int = 0) -> list[Image.Image]:
    """Return crops of random sizes with structure at a scale that survives resizing."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
        size = int(rng.integers(20, 200)), int(rng.integers(40, 300))
        crops.append(coarse.resize(size, Image.Resampling.BICUBIC))
    return crops


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.manual_seed(0)
    network = build_network("tiny", height=64, width=32, num_identities=4)
    network.train()
    for _ in range(10):  # statistics of BatchNorm that are not the initial ones
        network(torch.randn(8, 3, 64, 32))
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    card = Card(architecture="tiny", height=64, width=32, embedding_size=64, num_identities=4)
    save_checkpoint(path, network, card)
    return load_checkpoint(path)


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = (left * right).sum(axis=1)
    return rows


@pytest.mark.parametrize(("device", "precision"), RUNTIMES)
def test_embeddings_are_those_of_the_plain_network(tiny: Checkpoint, device: str, precision: str) -> None:
    crops = make_crops(5)
    with torch.inference_mode():
        plain = tiny.network(tiny.preprocess(crops)).numpy()
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    found = Embedder(tiny, device, precision).embed(crops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("device", "precision"), RUNTIMES)
def test_a_row_does_not_depend_on_batch_size_or_order(tiny: Checkpoint, device: str, precision: str) -> None:
    crops, embedder = make_crops(37), Embedder(tiny, device, precision)
    together = embedder.embed(crops)
    alone = np.concatenate([embedder.embed([crop]) for crop in crops])
    backwards = embedder.embed(crops[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)


def test_no_images_give_no_rows(tiny: Checkpoint) -> None:
    assert Embedder(tiny).embed([]).shape == (0, 64)


def test_many_threads_get_their_own_rows(tiny: Checkpoint) -> None:
    embedder, crops = Embedder(tiny, precision="fp32"), make_crops(24)
    expected = embedder.embed(crops)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda position: embedder.embed([crops[position % 24]])[0], range(240)))
    np.testing.assert_allclose(np.stack(found), np.tile(expected, (10, 1)), atol=1e-5)


def test_the_default_runtime_agrees_with_fp32_torch_on_the_shipped_network() -> None:
    crops = make_crops(16)
    fast = Embedder(load_checkpoint(DEFAULT_CHECKPOINT)).embed(crops)
    exact = Embedder(load_checkpoint(DEFAULT_CHECKPOINT), "torch-cpu", "fp32").embed(crops)
    assert cosines(fast, exact).min() >= 0.999


def test_two_graphs_make_the_same_embeddings_as_one(tiny: Checkpoint) -> None:
    """On a processor without bf16, OpenVINO computes both of its graphs in fp32."""
    crops = tiny.preprocess.pixels(make_crops(5))
    one, two = (OpenVinoRuntime(tiny, precision, None).run(crops) for precision in ("fp32", "bf16"))
    found, expected = two / np.linalg.norm(two, axis=1)[:, None], one / np.linalg.norm(one, axis=1)[:, None]
    assert cosines(found, expected).min() >= (0.99 if cpu_has_bf16() else 0.999999)


def test_auto_is_the_fastest_precision_of_the_processor(tiny: Checkpoint) -> None:
    if torch.cuda.is_available():
        assert Embedder(tiny).runtime.startswith("torch-cuda")
    else:
        assert Embedder(tiny).runtime == ("openvino-bf16" if cpu_has_bf16() else "openvino-fp32")


@pytest.mark.parametrize(("precision", "num_graphs"), [("fp32", 1), ("bf16", 2)])
def test_a_converted_network_is_read_from_the_cache(
    tiny: Checkpoint, tmp_path: Path, precision: str, num_graphs: int
) -> None:
    crops = tiny.preprocess.pixels(make_crops(3))
    first = OpenVinoRuntime(tiny, precision, tmp_path).run(crops)
    kept = sorted(path.suffix for path in tmp_path.iterdir())
    assert kept == [".bin"] * num_graphs + [".xml"] * num_graphs
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = OpenVinoRuntime(tiny, precision, tmp_path).run(crops)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_network_that_is_torn_in_the_cache_is_converted_again(
    tiny: Checkpoint, tmp_path: Path, suffix: str
) -> None:
    crops = make_crops(3)
    expected = Embedder(tiny, "cpu", "fp32", cache_dir=tmp_path).embed(crops)
    torn = min(tmp_path.glob(f"*{suffix}"))
    torn.write_bytes(torn.read_bytes()[:100])
    found = Embedder(tiny, "cpu", "fp32", cache_dir=tmp_path).embed(crops)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("tpu", "auto", "choose from auto, cpu, cuda"),
        ("auto", "int4", "choose from"),
        ("cpu", "fp16", "needs a CUDA device"),
    ],
)
def test_an_unavailable_runtime_is_refused(
    tiny: Checkpoint, device: str, precision: str, message: str
) -> None:
    with pytest.raises(RuntimeUnavailable, match=message):
        Embedder(tiny, device, precision)


def test_cuda_is_used_if_there_is_a_device_and_refused_otherwise(tiny: Checkpoint) -> None:
    if torch.cuda.is_available():
        assert Embedder(tiny, "cuda").runtime.startswith("torch-cuda")
    else:
        with pytest.raises(RuntimeUnavailable, match="no CUDA device"):
            Embedder(tiny, "cuda")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_any_mode_of_image_is_read_as_rgb(mode: str) -> None:
    image = Image.new(mode, (20, 40))
    assert Preprocess(64, 32)([image]).shape == (1, 3, 64, 32)


def test_preprocessing_is_resize_scale_and_normalise() -> None:
    preprocess = Preprocess(64, 32, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    pixels = preprocess([Image.new("RGB", (100, 300), (255, 51, 102))])
    expected = torch.tensor([1.0, -0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, 64, 32)
    torch.testing.assert_close(pixels, expected)


def test_a_golden_embedding_guards_preprocessing() -> None:
    """The first numbers of the embedding of a generated crop must stay those in the file (fp32, torch)."""
    embedding = Embedder(load_checkpoint(DEFAULT_CHECKPOINT), "torch-cpu", "fp32").embed(make_crops(1))[0]
    expected = np.array(
        [float(number) for number in (DATA / "golden_embedding.txt").read_text().split()], dtype=np.float32
    )
    np.testing.assert_allclose(embedding[: len(expected)], expected, atol=2e-5)


def test_a_signal_is_handled_after_a_network_was_deleted_on_another_thread(tiny_checkpoint: Path) -> None:
    program = """
import faulthandler, os, signal, sys, threading
from pathlib import Path
from model.checkpoint import load_checkpoint
from model.embedder import Embedder

faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
path = Path(sys.argv[1])
embedders = [Embedder(load_checkpoint(path), "cpu", cache_dir=path.parent / "cache")]
thread = threading.Thread(target=embedders.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tiny_checkpoint)]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_converting_a_network_sends_no_telemetry(tmp_path: Path) -> None:
    program = """
import torch
from model.runtime import convert

convert(torch.nn.Conv2d(3, 4, 3), (3, 8, 8))
"""
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {
        "HOME": str(tmp_path)
    }
    subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []  # OpenVINO's telemetry keeps its id in the home folder


def test_a_program_that_has_imported_openvino_before_sends_no_telemetry_either(tmp_path: Path) -> None:
    """OpenVINO reports from a process that it forks; its import alone writes an id, before we can act."""
    program = """
import sys
import openvino
import torch
from model.runtime import convert

told = []
sys.addaudithook(lambda event, _: told.append(event))
convert(torch.nn.Conv2d(3, 4, 3), (3, 8, 8))
assert not {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "socket.getaddrinfo"} & set(told)
"""
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {
        "HOME": str(tmp_path)
    }
    subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True)

"""Functions of model/ work with a path as text; test_public_paths.py checks that all accept text."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from authors import make_authors, save_authors
from foreign_networks import HEIGHT, WIDTH, make_card, save_ir
from model.architectures import build_network
from model.card import Card
from model.checkpoint import checkpoint_version, load_checkpoint, read_card, save_checkpoint, save_foreign
from model.embedder import Embedder
from model.files import describe_file, sync_dir, write_atomically
from model.interop.foreign import import_foreign
from model.interop.official import import_official
from model.interop.state_dicts import read_state_dict
from model.interop.trial import main, try_apart
from model.runtime import OpenVinoRuntime, make_runtime

CARD = Card(architecture="tiny", height=64, width=32, embedding_size=64, num_identities=4)


def test_a_checkpoint_is_saved_and_read(tmp_path: Path) -> None:
    path = str(tmp_path / "tiny.safetensors")
    version = save_checkpoint(path, build_network("tiny", height=64, width=32, num_identities=4), CARD)
    assert load_checkpoint(path).version == checkpoint_version(path) == version
    assert read_card(path) == CARD


def test_a_foreign_network_is_imported_saved_and_tried(tmp_path: Path) -> None:
    graph, out = save_ir(tmp_path / "small.xml"), tmp_path / "small.safetensors"
    ones, zeros = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    version = import_foreign(str(graph), str(out), height=HEIGHT, width=WIDTH, mean=zeros, std=ones)
    assert checkpoint_version(out) == version
    try_apart(str(out))
    again = tmp_path / "again.safetensors"
    weights = graph.with_suffix(".bin").read_bytes()
    version = save_foreign(str(again), graph.read_bytes(), weights, make_card())
    assert checkpoint_version(again) == version
    main(str(again))


def test_a_checkpoint_of_the_authors_is_imported(tmp_path: Path) -> None:
    path = save_authors(tmp_path / "a.pth.tar", make_authors("rgac").state_dict())
    version = import_official(str(path), str(tmp_path / "a.safetensors"), branch="rgac")
    assert checkpoint_version(tmp_path / "a.safetensors") == version


def test_a_state_dict_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "a.pt")
    assert read_state_dict(str(tmp_path / "a.pt"))["weight"].tolist() == [1, 1, 1]


def test_converted_networks_are_kept_in_a_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    keepers: list[Callable[[str], object]] = [
        lambda folder: Embedder(checkpoint, "cpu", "fp32", folder),
        lambda folder: make_runtime(checkpoint, "cpu", "fp32", folder),
        lambda folder: OpenVinoRuntime(checkpoint, "fp32", folder),
    ]
    for number, keep in enumerate(keepers):
        keep(str(tmp_path / str(number)))
        assert sorted(path.suffix for path in (tmp_path / str(number)).iterdir()) == [".bin", ".xml"]


def test_a_file_is_written_and_described_and_its_folder_synced(tmp_path: Path) -> None:
    path = tmp_path / "new" / os.fsdecode(b"caf\xe9")
    write_atomically(str(path), b"content")
    sync_dir(str(tmp_path / "new"))
    assert path.read_bytes() == b"content"
    assert describe_file(str(path)) == "caf? (SHA-256 ed7002b439e9)"

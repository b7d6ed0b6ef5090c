"""H14: the converted networks of a version go with it, and those of versions that are gone go at a start."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from live_server import make_checkpoint, serve, upload_model
from model.checkpoint import checkpoint_version
from service.settings import Settings


def versions_in(cache: Path) -> set[str]:
    return {path.name[:12] for path in cache.iterdir()}


def save_useless(like: Path, path: Path) -> str:
    """Save a network that can be converted, and that makes the same embedding of every image."""
    with safe_open(like, "pt") as file:
        card = file.metadata()
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(like).items()}, path, card)
    return checkpoint_version(path)


def test_h14_a_deleted_version_leaves_no_converted_network(
    settings: Settings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    cache, tiny = settings.cache_dir, checkpoint_version(tiny_checkpoint)
    for name in ("0123456789ab-2026.0.0-u8-whole.bin", "notes.txt"):
        (cache / name).write_bytes(b"from an older program")
        os.utime(cache / name, times=(0, 0))
    kept = versions_in(cache) - {"0123456789ab"}
    third = make_checkpoint(tmp_path / "third.safetensors", 3)
    save_useless(tiny_checkpoint, tmp_path / "useless.safetensors")
    with serve(settings) as client:
        assert versions_in(cache) == kept
        assert tiny in kept
        upload_model(client, tmp_path / "third.safetensors")
        assert versions_in(cache) == kept | {third}
        assert client.delete(f"/models/{third}").status_code == 204
        assert versions_in(cache) == kept
        assert upload_model(client, tmp_path / "useless.safetensors").status_code == 422
        assert versions_in(cache) == kept

"""Teachers for distillation: embeddings from a file, or a network that runs on the student's images."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from model.checkpoint import load_checkpoint
from model.preprocess import Color, Preprocess
from training.data.datasets import ReidDataset
from training.weights.foreign import EmbeddingsError, compile_graph


class Teacher(Protocol):
    """Gives the embeddings that a student learns to predict.

    Attributes:
        size: T, numbers in an embedding.
    """

    size: int

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:
        """Return the embeddings of a batch, float (N, T), on the device of the teacher.

        Args:
            images: float (N, 3, H, W), augmented, and normalised for the student.
            positions: int64 (N,), the position of each sample in the training split.
        """
        ...


class EmbeddingsTeacher:
    """A teacher whose embeddings are known for each crop of the training split, without augmentation.

    Args:
        embeddings: float32 (number of samples, T), in the order of the training split.
        device: of the training.
    """

    def __init__(self, embeddings: Tensor, device: torch.device) -> None:
        self.size = embeddings.shape[1]
        self._embeddings = embeddings.to(device)

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - for the other teacher
        """Return the stored embeddings; ``images`` is ignored."""
        return self._embeddings[positions.to(self._embeddings.device)]


class NetworkTeacher:
    """A teacher that embeds the same augmented images as the student, resized to the teacher's input.

    Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022.

    Args:
        run: from pixels (N, 3, height, width), 0-255 in RGB, to embeddings (N, T).
        height: of the teacher's input, in pixels.
        width: of the teacher's input, in pixels.
        student: the preprocessing of the student, by which the images are normalised.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], height: int, width: int, student: Preprocess) -> None:
        self._run, self._grid, self._student = run, (height, width), student
        self.size = self(torch.zeros(1, 3, student.height, student.width), torch.zeros(1)).shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - for the other teacher
        """Return the embeddings of the images; ``positions`` is ignored."""
        fractions = images.float() * _per_channel(self._student.std, images)
        pixels = 255 * (fractions + _per_channel(self._student.mean, images))
        if tuple(images.shape[2:]) != self._grid:
            pixels = F.interpolate(pixels, self._grid, mode="bilinear", antialias=True).clamp(0, 255)
        return self._run(pixels)


def load_teacher_embeddings(path: str | Path, dataset: ReidDataset) -> Tensor:
    """Return the embeddings of the training split, float32 (N, T), from an .npz that embed.py wrote.

    Raises:
        EmbeddingsError: the file cannot be read, lacks a training crop, or has a number that is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = dict(zip(arrays["paths"].tolist(), arrays["embeddings"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise EmbeddingsError(f"{path} is not a file that training/embed.py wrote: {error}") from error
    names = [dataset.relative_path(sample) for sample in dataset.train]
    if missing := [name for name in names if name not in rows]:
        raise EmbeddingsError(
            f"{path} lacks {len(missing)} of {len(names)} training crops, such as {missing[0]}"
        )
    embeddings = torch.from_numpy(np.stack([rows[name] for name in names]).astype(np.float32))
    if not torch.isfinite(embeddings).all():
        raise EmbeddingsError(f"{path} holds embeddings that are not finite")
    return embeddings


def open_teacher(
    path: str | Path, student: Preprocess, device: torch.device, *, mean: float, scale: float, is_bgr: bool
) -> NetworkTeacher:
    """Return a network as a teacher, in fp32.

    Args:
        path: a checkpoint (.safetensors), .onnx or OpenVINO .xml.
        student: the preprocessing of the student.
        device: of the training; a foreign network runs on the CPU.
        mean: as for `open_network`.
        scale: as for `open_network`.
        is_bgr: as for `open_network`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EmbeddingsError: the file is not a network with one image input (N, 3, H, W).
    """
    if Path(path).suffix == ".safetensors":
        return _open_own(path, student, device)
    compiled, preprocess = compile_graph(path, precision="f32")

    def run(pixels: Tensor) -> Tensor:
        values = (pixels.cpu().numpy() - mean) / scale
        channels = np.ascontiguousarray(values[:, ::-1] if is_bgr else values, np.float32)
        return torch.from_numpy(compiled([channels])[0].reshape(len(values), -1)).to(pixels.device)

    return NetworkTeacher(run, preprocess.height, preprocess.width, student)


def _open_own(path: str | Path, student: Preprocess, device: torch.device) -> NetworkTeacher:
    checkpoint = load_checkpoint(path)
    network, own = checkpoint.network.to(device), checkpoint.preprocess

    def run(pixels: Tensor) -> Tensor:
        fractions = pixels.to(device) / 255
        images = (fractions - _per_channel(own.mean, fractions)) / _per_channel(own.std, fractions)
        embeddings: Tensor = network(images)
        return embeddings

    return NetworkTeacher(run, own.height, own.width, student)


def _per_channel(values: Color, like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(1, 3, 1, 1)

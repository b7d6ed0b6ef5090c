"""The training loop: one network, one recipe, a state on disk after every epoch."""

import io
import json
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from model.architectures import build_network
from model.attention import RelationAwareGlobalAttention
from model.checkpoint import Card, save_checkpoint
from model.files import write_atomically
from model.layers import ReidNetwork
from model.preprocess import Preprocess
from model.runtime import cpu_has_bf16
from training.augment import Augment
from training.datasets import CropDataset, ReidDataset, hold_out, label_pids
from training.initial import Initial
from training.losses import batch_hard_triplet_loss, teacher_loss, teacher_relations_loss
from training.recipes import Recipe
from training.run_log import RunLog
from training.samplers import IdentitySampler

STATE_FILE, NETWORK_FILE, RECIPE_FILE = "state.pt", "last.safetensors", "recipe.json"


class TrainingError(Exception):
    """A run cannot start or go on; the message says why and what to do."""


@dataclass
class Meter:
    """Running sums of an epoch."""

    num_images: int = 0
    loss: float = 0.0
    num_correct: int = 0
    started: float = 0.0

    def add(self, loss: float, num_correct: int, num_images: int) -> None:
        """Count one batch."""
        self.loss += loss * num_images
        self.num_correct += num_correct
        self.num_images += num_images

    def summary(self) -> dict[str, float]:
        """Return the loss, the accuracy in percent and the images per second so far."""
        count = max(1, self.num_images)
        return {
            "loss": round(self.loss / count, 4),
            "accuracy": round(100 * self.num_correct / count, 2),
            "images_per_s": round(self.num_images / max(1e-9, time.monotonic() - self.started), 1),
        }


class Trainer:
    """Trains the recipe's network on a data set and writes it to a folder, once an epoch.

    Args:
        recipe: every number of the run.
        dataset: its training split is used, nothing else; less the identities that the recipe holds out.
        output: the run's folder: recipe, state, network (the EMA of the weights) and metrics.jsonl.
        initial: weights to start from, or none for fresh ones.
        teacher_embeddings: float32 (number of training samples, T) in their order, or none.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: the data have too few identities, or the device is not there.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: ReidDataset,
        output: Path,
        *,
        initial: Initial | None = None,
        teacher_embeddings: Tensor | None = None,
        device: str = "auto",
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.output, self._source = recipe, output, dataset
        self.dataset, kept = hold_out(dataset, recipe.num_held_out)
        self.parent = initial.version if initial else None
        self._device = _choose_device(device)
        self._preprocess = Preprocess(recipe.height, recipe.width)
        num_identities = len(label_pids(self.dataset.train))
        network = build_network(
            recipe.architecture, height=recipe.height, width=recipe.width, num_identities=num_identities
        )
        if initial:
            initial.load_into(network)
        if recipe.only_attention:
            freeze_all_but_attention(network)
        self.network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )
        self._teacher = None if teacher_embeddings is None else teacher_embeddings[kept].to(self._device)
        size = 0 if self._teacher is None else self._teacher.shape[1]
        self._head = nn.Linear(network.embedding_size, size, bias=False).to(self._device) if size else None
        self._optimizer = torch.optim.Adam(
            [parameter for parameter in self._trained() if parameter.requires_grad],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._sampler = self._make_sampler()
        self._epoch = 0
        self._log = RunLog(output)

    def fit(self, *, resume: bool = False) -> Path:
        """Train to the recipe's last epoch and return the path of the network's file.

        Raises:
            TrainingError: the folder holds a run and ``resume`` is not set, or that of another recipe; or the
                loss is not finite.
        """
        self._prepare_folder(resume)
        self.network.train()
        if self.recipe.frozen_neck_statistics:
            self.network.neck.eval()
        with closing(self._log), _progress() as progress:
            self._log.start(self._source, seed=self.recipe.seed, epoch=self._epoch)
            for epoch in range(self._epoch, self.recipe.num_epochs):
                summary = self._train_epoch(epoch, progress)
                self._epoch = epoch + 1
                rate: float = self._optimizer.param_groups[0]["lr"]
                self._log.epoch({"epoch": self._epoch, **summary, "learning_rate": rate})
                self._log.flush()
                self._save()
                progress.console.print(f"epoch {self._epoch}: " + json.dumps(summary))
        return self.output / NETWORK_FILE

    def _trained(self) -> Iterator[nn.Parameter]:
        yield from self.network.parameters()
        if self._head is not None:
            yield from self._head.parameters()

    def _make_sampler(self) -> IdentitySampler:
        recipe, pids = self.recipe, [sample.pid for sample in self.dataset.train]
        try:
            return IdentitySampler(
                pids, recipe.identities_per_batch, recipe.images_per_identity, seed=recipe.seed
            )
        except ValueError as error:
            raise TrainingError(f"{self.dataset.root} is too small for {recipe.name}: {error}") from error

    def _train_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        torch.manual_seed(self.recipe.seed * 100_003 + epoch)  # augmentation of an epoch, resumed or not
        self._sampler.epoch = epoch
        crops = CropDataset(self.dataset.train, Augment(self.recipe, self._preprocess))
        loader = DataLoader(crops, batch_sampler=self._sampler, num_workers=1, prefetch_factor=4)
        num_steps = len(loader)
        task = progress.add_task(f"epoch {epoch + 1}/{self.recipe.num_epochs}", total=num_steps, status="")
        meter = Meter(started=time.monotonic())
        for step, (images, labels, positions) in enumerate(loader):
            self._set_learning_rate(epoch + step / num_steps)
            loss, num_correct = self._step(images, labels, positions)
            meter.add(loss, num_correct, len(labels))
            summary = meter.summary()
            status = "loss {loss:.3f}  accuracy {accuracy:.1f} %  {images_per_s:.0f} images/s"
            progress.update(task, advance=1, status=status.format(**summary))
        return meter.summary()

    def _step(self, images: Tensor, labels: Tensor, positions: Tensor) -> tuple[float, int]:
        images = images.to(self._device, memory_format=torch.channels_last)
        labels = labels.to(self._device)
        is_mixed = self._device.type == "cuda" or cpu_has_bf16()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_mixed):
            output = self.network(images)
        loss = F.cross_entropy(output.logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        loss = loss + batch_hard_triplet_loss(output.pooled, labels, self.recipe.triplet_margin)
        if self._teacher is not None and self._head is not None:
            teacher = self._teacher[positions.to(self._device)]
            loss = loss + self.recipe.teacher_weight * teacher_loss(
                self._head(output.embedding.float()), teacher
            )
            relations = teacher_relations_loss(output.embedding, teacher)
            loss = loss + self.recipe.teacher_relations_weight * relations
        if not math.isfinite(value := loss.item()):
            raise TrainingError(
                f"the loss became {value}: lower the learning rate, or look at the crops of it"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self.ema.update_parameters(self.network)
        return value, int((output.logits.argmax(dim=1) == labels).sum())

    def _set_learning_rate(self, epoch: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, epoch)

    def _prepare_folder(self, resume: bool) -> None:
        state = self.output / STATE_FILE
        if state.exists() and not resume:
            raise TrainingError(f"{self.output} holds a run already: add --resume, or give another --output")
        if state.exists():
            self._load_state(state)
        else:
            write_atomically(self.output / RECIPE_FILE, self.recipe.to_json().encode())

    def _load_state(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self._device)
        if state["recipe"] != self.recipe.to_json():
            raise TrainingError(f"{self.output} holds a run of another recipe: see its {RECIPE_FILE}")
        if (self._head is None) != (state["head"] is None):
            raise TrainingError(f"{self.output} holds a run with other teacher embeddings than this one")
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._head is not None:
            self._head.load_state_dict(state["head"])
        self._epoch = state["epoch"]

    def _save(self) -> None:
        state: dict[str, Any] = {
            "recipe": self.recipe.to_json(),
            "epoch": self._epoch,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "head": self._head.state_dict() if self._head is not None else None,
            "optimizer": self._optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.output / STATE_FILE, buffer.getvalue())
        save_checkpoint(self.output / NETWORK_FILE, self.ema.module, self.card())

    def card(self, metrics: dict[str, float] | None = None) -> Card:
        """Describe the network as it is now."""
        network: Any = self.network
        return Card(
            metrics=metrics or {},
            architecture=self.recipe.architecture,
            height=self.recipe.height,
            width=self.recipe.width,
            embedding_size=network.embedding_size,
            num_identities=network.num_identities,
            recipe=self.recipe.name,
            dataset=self.dataset.name,
            parent=self.parent,
        )


def freeze_all_but_attention(network: ReidNetwork) -> None:
    """Leave the RGA modules and the classifier to train, and what the rest knows as it is."""
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)
    for module in network.modules():
        if isinstance(module, RelationAwareGlobalAttention):
            module.requires_grad_(True)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the rate at a fractional epoch: linear warm-up, then cosine to zero.

    >>> from dataclasses import replace
    >>> from training.recipes import tiny
    >>> recipe = replace(tiny(), num_epochs=11, warmup_epochs=1, learning_rate=1.0)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 0.5, 1, 6, 11)]
    [0.01, 0.505, 1.0, 0.5, 0.0]
    """
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * (0.01 + 0.99 * epoch / recipe.warmup_epochs)
    done = (epoch - recipe.warmup_epochs) / max(1e-9, recipe.num_epochs - recipe.warmup_epochs)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda was asked for, and torch sees no CUDA device")
    return torch.device(name)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )

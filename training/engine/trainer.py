"""The training loop: trains a network by a recipe, and saves a state from which a run resumes exactly."""

import copy
import hashlib
import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors.torch import save
from torch.utils.data import DataLoader

from model.architectures import build_network
from model.card import Card
from model.card_text import to_text
from model.checkpoint import Checkpoint, save_checkpoint
from model.embedder import Embedder
from model.files import write_atomically
from model.layers import ReidNetwork
from model.preprocess import Preprocess
from training.data.augment import Augment
from training.data.crops import Batch, Crops, plan_epoch, select_frequent
from training.data.datasets import DatasetError, ReidDataset, hold_out, label_pids
from training.data.samplers import IdentitySampler
from training.engine import distributed
from training.engine.compatibility import make_prototypes
from training.engine.errors import TrainingError
from training.engine.evaluation import evaluate
from training.engine.learner import Learner, LossNotFinite
from training.engine.optimizers import learning_rate
from training.engine.progress import Meter, explain_dead_workers, progress_bar
from training.engine.run_log import RunLog
from training.engine.run_state import explain_write_errors, load_state, save_state
from training.recipes.recipe import Recipe, parse_recipe
from training.weights.initial import Initial, freeze_all_but_attention
from training.weights.teachers import Teacher

STATE_FILE, NETWORK_FILE, BEST_FILE, RECIPE_FILE = (
    "state.pt",
    "last.safetensors",
    "best.safetensors",
    "recipe.json",
)


class Trainer:
    """Trains the recipe's network on a data set and writes it to a folder.

    The state is saved at the end of each epoch and every ``save_every_s`` seconds. Each step and each crop
    has a random seed of its own, so that a step depends only on the saved state and the number of the step.
    In fp32 on a CPU, a run that is killed and resumed therefore repeats every loss to the last bit.

    Args:
        recipe: the recipe.
        dataset: only the training split is used, without the identities that the recipe holds out.
        output: the run's folder, for recipe, state, networks (the EMA of the weights) and logs.
        initial: weights to start from, or None for fresh ones.
        teacher: a network to learn from, or None.
        compatible_with: an old network to whose embeddings the new ones must be comparable, or None.
        device: of this process; the CPU by default.
        num_workers: processes that read and augment crops, for each process that trains.
        save_every_s: seconds between two savings of the state; 0 saves after every step.
        is_compiled: compile the network with torch.compile.

    Raises:
        TrainingError: the training split has too few identities or images, the processes cannot share a batch
            equally, or the embeddings of ``compatible_with`` have another size.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: ReidDataset,
        output: str | Path,
        *,
        initial: Initial | None = None,
        teacher: Teacher | None = None,
        compatible_with: Checkpoint | None = None,
        device: torch.device | None = None,
        num_workers: int = 1,
        save_every_s: float = 60.0,
        is_compiled: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.output = recipe, Path(output)
        self._samples = dataset.train
        self.dataset, self._kept = hold_out(dataset, recipe.num_held_out)
        frequent = select_frequent(self.dataset.train, recipe.min_images_per_identity)
        self._kept = [self._kept[position] for position in frequent]
        self._trained_on = tuple(self._samples[position] for position in self._kept)
        self.parent = initial.version if initial else None
        self._device = device or distributed.choose_device("cpu")
        self._preprocess = Preprocess(recipe.height, recipe.width)
        self._sampler = self._make_sampler()
        network = self._make_network(initial)
        self.compatible_with, prototypes = compatible_with, None
        if compatible_with:
            prototypes = make_prototypes(compatible_with, self._trained_on, network.embedding_size)
        self._learner = Learner(
            recipe, network, teacher, self._device, prototypes=prototypes, is_compiled=is_compiled
        )
        self._num_workers, self._save_every_s = num_workers, save_every_s
        self._log, self._source = RunLog(output), dataset
        self._epoch, self._step, self._meter, self._best = 0, 0, Meter(), -1.0
        self._saved_at_s = time.monotonic()

    def fit(self, *, resume: bool = False) -> Path:
        """Train to the recipe's last epoch and return the network's file; ``resume`` continues a saved run.

        Raises:
            TrainingError: the folder cannot be written, or holds a run and ``resume`` is False, or holds a
                run of another recipe, teacher, old network or data set; a crop cannot be read; or the loss is
                not finite.
        """
        self._prepare_folder(resume)
        with explain_dead_workers(), closing(self._log), progress_bar() as progress:
            while self._epoch < self.recipe.num_epochs:
                started, counted = time.monotonic(), self._meter.num_images
                self._learner.train()
                self._train_epoch(progress)
                speed = (self._meter.num_images - counted) / max(1e-9, time.monotonic() - started)
                summary = self._meter.summary() | {"images_per_s": round(speed, 1)}
                self._end_epoch(summary)
                if distributed.rank() == 0:
                    progress.console.print(f"epoch {self._epoch}: {json.dumps(summary)}", soft_wrap=True)
        return self.output / NETWORK_FILE

    def _make_sampler(self) -> IdentitySampler:
        recipe, world_size = self.recipe, distributed.world_size()
        if recipe.identities_per_batch % world_size:
            raise TrainingError(
                f"{world_size} processes cannot share the {recipe.identities_per_batch} identities of a batch"
            )
        try:
            return IdentitySampler(
                [sample.pid for sample in self._trained_on],
                recipe.identities_per_batch,
                recipe.images_per_identity,
                seed=recipe.seed,
                draws=recipe.sampler,
            )
        except ValueError as error:
            raise TrainingError(f"{self.dataset.root} is too small for {recipe.name}: {error}") from error

    def _make_network(self, initial: Initial | None) -> ReidNetwork:
        recipe = self.recipe
        network = build_network(
            recipe.architecture,
            height=recipe.height,
            width=recipe.width,
            num_identities=len(label_pids(self._trained_on)),
            pooling=recipe.pooling,
        )
        if initial:
            initial.load_into(network)
        if recipe.only_attention:
            freeze_all_but_attention(network)
        network.gradient_checkpointing = recipe.gradient_checkpointing
        moved: ReidNetwork = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return moved

    def _train_epoch(self, progress: Progress) -> None:
        recipe, epoch = self.recipe, self._epoch
        loader, num_steps = self._load(epoch, self._step)
        task = progress.add_task(
            f"epoch {epoch + 1}/{recipe.num_epochs}", total=num_steps, completed=self._step, status=""
        )
        try:
            for step, batch in enumerate(map(Batch._make, loader), start=self._step):
                torch.manual_seed(step_seed(recipe.seed, epoch, step, distributed.rank()))
                first = step - step % recipe.accumulation_steps
                num_batches = min(recipe.accumulation_steps, num_steps - first)
                rate = learning_rate(recipe, epoch + first / num_steps)
                self._train_step(step, batch, num_batches, rate)
                if step + 1 == first + num_batches:
                    self._learner.optimizer_step(rate)
                    self._step = step + 1
                    self._save_in_time()
                status = "loss {loss:.3f}  accuracy {accuracy:.1f} %"
                progress.update(task, advance=1, status=status.format(**self._meter.summary()))
        except DatasetError as error:  # from a worker: its traceback, with the message in the last line
            message = str(error).strip().splitlines()[-1]
            raise TrainingError(message) from error

    def _load(self, epoch: int, start: int) -> tuple[DataLoader[Any], int]:
        batches = self._sampler.batches(epoch)
        kept = [[self._kept[position] for position in batch] for batch in batches]
        plan = plan_epoch(kept, seed=self.recipe.seed, epoch=epoch)
        crops = Crops(self._samples, label_pids(self._trained_on), Augment(self.recipe, self._preprocess))
        loader: DataLoader[Any] = DataLoader(
            crops,
            batch_sampler=[list(distributed.own_part(batch)) for batch in plan[start:]],
            num_workers=self._num_workers,
            prefetch_factor=4 if self._num_workers else None,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # the loader's seed must not come from torch's default one
        )
        return loader, len(plan)

    def _train_step(self, step: int, batch: Batch, num_batches: int, rate: float) -> None:
        try:
            result = self._learner.train_step(batch, num_batches)
        except LossNotFinite as error:
            path = self._dump_batch(step, batch, error.losses)
            raise TrainingError(
                f"{error} in step {step + 1} of epoch {self._epoch + 1}: the batch is in {path}; lower the "
                "learning rate, or look at the crops of the batch"
            ) from error
        self._meter.add(result)
        if distributed.rank() == 0:
            self._log.step(
                {"epoch": self._epoch + 1, "step": step + 1, **result.losses, "learning_rate": rate}
            )

    def _dump_batch(self, step: int, batch: Batch, losses: dict[str, float]) -> Path:
        """Write a batch without a finite loss as JSON and tensors; return the path of the JSON."""
        name = "nan-batch" if distributed.world_size() == 1 else f"nan-batch-{distributed.rank()}"
        samples = [self._samples[position] for position in batch.positions.tolist()]
        facts = {
            "epoch": self._epoch + 1,
            "step": step + 1,
            "losses": {term: str(value) for term, value in losses.items()},
            "pids": [sample.pid for sample in samples],
            "paths": [str(sample.path) for sample in samples],
        }
        path = self.output / f"{name}.json"
        with explain_write_errors(self.output):
            write_atomically(path, json.dumps(facts, indent=2).encode())
            tensors = {"images": batch.images.contiguous(), "labels": batch.labels}
            write_atomically(path.with_suffix(".safetensors"), save(tensors))
        return path

    def _end_epoch(self, summary: dict[str, float]) -> None:
        rate = learning_rate(self.recipe, self._epoch)  # in its first step
        self._epoch, self._step, self._meter = self._epoch + 1, 0, Meter()
        metrics: dict[str, float] = {}
        if self.recipe.evaluate_every and self._epoch % self.recipe.evaluate_every == 0:
            metrics = self._validate()
            summary |= {f"held_out_{name}": value for name, value in metrics.items()}
        if distributed.rank() == 0:
            self._log.epoch({"epoch": self._epoch, **summary, "learning_rate": rate})
            network = self._learner.ema.module
            with explain_write_errors(self.output):
                save_checkpoint(self.output / NETWORK_FILE, network, self.card())
                if metrics and metrics["mAP"] > self._best:
                    save_checkpoint(self.output / BEST_FILE, network, self.card(metrics))
        self._best = max(self._best, metrics.get("mAP", -1.0))
        self._save()

    def _validate(self) -> dict[str, float]:
        """Evaluate the network on the held-out identities."""
        network: Any = copy.deepcopy(self._learner.ema.module).eval()
        device = "cuda" if self._device.type == "cuda" else "torch-cpu"
        return evaluate(Embedder(Checkpoint(network, self.card(), ""), device), self.dataset)

    def _prepare_folder(self, resume: bool) -> None:
        path = self.output / STATE_FILE
        if path.exists() and not resume:
            raise TrainingError(f"{self.output} holds a run already: add --resume, or give another --output")
        if path.exists():
            self._load_state(path)
        if distributed.rank() == 0:
            with explain_write_errors(self.output):
                write_atomically(self.output / RECIPE_FILE, self.recipe.to_json().encode())
                seed = self.recipe.seed
                self._log.start(self._source, seed=seed, epoch=self._epoch, step=self._step)

    def _load_state(self, path: Path) -> None:
        state = load_state(path)
        try:
            is_same_recipe = parse_recipe(state["recipe"], str(path)) == self.recipe
        except ValueError:  # of a version with other fields
            is_same_recipe = False
        if not is_same_recipe:
            raise TrainingError(f"{self.output} holds a run of another recipe: see its {RECIPE_FILE}")
        if state["crops"] != self._fingerprint():
            raise TrainingError(f"{self.output} holds a run on other crops than those of {self.dataset.root}")
        if state.get("compatible_with") != self._old_version:
            raise TrainingError(f"{self.output} holds a run with another --compatible-with, or with none")
        try:
            self._learner.load_state_dict(state["learner"])
        except RuntimeError as error:
            raise TrainingError(
                f"{self.output} holds a run with another teacher, or with none where one is given"
            ) from error
        self._epoch, self._step, self._best = state["epoch"], state["step"], state["best"]
        self._meter = Meter(**state["meter"])

    @property
    def _old_version(self) -> str | None:
        return self.compatible_with.version if self.compatible_with else None

    def _fingerprint(self) -> str:
        rows = [f"{sample.path.name} {sample.pid}" for sample in self._trained_on]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_at_s >= self._save_every_s:
            self._save()

    def _save(self) -> None:
        """Write the logs, then the state: the logs must not end before the state."""
        self._saved_at_s = time.monotonic()
        if distributed.rank() != 0:
            return
        state = {
            "recipe": self.recipe.to_json(),
            "crops": self._fingerprint(),
            "compatible_with": self._old_version,
            "epoch": self._epoch,
            "step": self._step,
            "best": self._best,
            "meter": asdict(self._meter),
            "learner": self._learner.state_dict(),
        }
        with explain_write_errors(self.output):
            self._log.flush()
            save_state(self.output / STATE_FILE, state)

    def card(
        self, metrics: dict[str, float] | None = None, verification: dict[str, Any] | None = None
    ) -> Card:
        """Return the card of the network in its current state."""
        network: Any = self._learner.network
        return Card(
            metrics=metrics or {},
            verification=verification,
            architecture=self.recipe.architecture,
            height=self.recipe.height,
            width=self.recipe.width,
            embedding_size=network.embedding_size,
            num_identities=network.num_identities,
            pooling=self.recipe.pooling,
            recipe=self.recipe.name,
            dataset=to_text(self.dataset.name),
            parent=self.parent,
        )


def step_seed(*place: int) -> int:
    """Return the random seed of a step (for dropout and the like), from (seed, epoch, step, rank).

    >>> step_seed(0, 3, 5, 0) == step_seed(0, 3, 5, 0) != step_seed(0, 5, 3, 0)
    True
    """
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7])

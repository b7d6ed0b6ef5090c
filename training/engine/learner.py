"""One training step: forward and backward pass, optimiser, losses, moving average and precision."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.layers import ReidNetwork, TrainingOutput
from model.runtime import cpu_has_bf16
from training.data.crops import Batch
from training.engine import distributed
from training.engine.criterion import Criterion
from training.engine.errors import TrainingError
from training.engine.optimizers import make_optimizer
from training.recipes.recipe import Recipe
from training.weights.teachers import Teacher


class LossNotFinite(Exception):
    """A loss became infinite or NaN."""

    def __init__(self, losses: dict[str, float]) -> None:
        super().__init__(f"the loss became {losses['loss']}")
        self.losses = losses


class StepResult(NamedTuple):
    """The result of one batch of all processes.

    Attributes:
        losses: every term of the loss by name, and ``loss``, their sum.
        num_correct: images whose identity the classifier names.
        num_images: images of the batch.
    """

    losses: dict[str, float]
    num_correct: int
    num_images: int


class Learner:
    """Trains a network by the recipe. All processes have the same state after each step of the optimiser.

    Args:
        recipe: the recipe.
        network: on the device; frozen weights do not require gradients.
        teacher: the network whose embeddings are learnt beside the labels, or None.
        device: of the network.
        prototypes: float32 (num_identities, D), the classifier of an old network to be compatible with, or
            None.
        is_compiled: compile the network with torch.compile.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: ReidNetwork,
        teacher: Teacher | None,
        device: torch.device,
        *,
        prototypes: Tensor | None = None,
        is_compiled: bool = False,
    ) -> None:
        self._recipe, self._teacher, self._device = recipe, teacher, device
        self.network = distributed.synchronise_norms(network, device)
        self.ema = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )
        teacher_size = teacher.size if teacher else 0
        self.criterion = Criterion(
            recipe, network.embedding_size, network.num_identities, teacher_size, prototypes
        )
        self.criterion.to(device)
        self._optimizer = make_optimizer(recipe, [*self.network.parameters(), *self.criterion.parameters()])
        self._dtype = mixed_dtype(recipe.precision, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._forward = distributed.parallel(self.network, device)
        if is_compiled:
            self._forward.compile()

    def train(self) -> None:
        """Put the network in training mode, but for a neck whose statistics the recipe freezes."""
        self.network.train()
        if self._recipe.frozen_neck_statistics:
            neck: Any = self.network.neck
            neck.eval()

    def train_step(self, batch: Batch, num_batches: int = 1) -> StepResult:
        """Add the gradient of a batch to the gradients of the current step of the optimiser.

        Args:
            batch: this process's part of the batch.
            num_batches: batches whose gradients are averaged in the current step of the optimiser.

        Raises:
            LossNotFinite: the loss is infinite or NaN; neither weights nor gradients have changed.
            TrainingError: torch.compile does not work on this machine.
        """
        output = self._run(batch.images)
        labels = distributed.gather(batch.labels.to(self._device))
        teacher = None
        if self._teacher is not None:
            images = batch.images.to(self._device)
            teacher = distributed.gather(self._teacher(images, batch.positions))
        terms = self.criterion(output, labels, teacher)
        loss = torch.stack(list(terms.values())).sum()
        losses = dict(zip(("loss", *terms), torch.stack([loss, *terms.values()]).tolist(), strict=True))
        if not math.isfinite(losses["loss"]):
            raise LossNotFinite(losses)
        self._scaler.scale(loss / num_batches).backward()
        self.criterion.move_centres(output, labels)
        return StepResult(losses, int((output.logits.argmax(dim=1) == labels).sum()), len(labels))

    def optimizer_step(self, rate: float) -> None:
        """Change the weights by the accumulated gradients at a learning rate, and clear the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        distributed.average_gradients(self.criterion)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.network)

    def _run(self, images: Tensor) -> TrainingOutput:
        images = images.to(self._device, memory_format=torch.channels_last)
        is_mixed = self._dtype is not None
        try:
            with torch.autocast(self._device.type, self._dtype, enabled=is_mixed):
                output = self._forward(images)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"--compile does not work on this machine, train without it ({reason})"
            ) from error
        return TrainingOutput(*(distributed.gather(part) for part in output))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.criterion.load_state_dict(state["criterion"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def mixed_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of autocast for a precision of the recipe, or None for fp32 without autocast.

    ``auto`` is bf16 on a device that computes in bf16, and otherwise fp16 on CUDA and fp32 on a CPU.

    >>> mixed_dtype("fp32", torch.device("cpu")), mixed_dtype("fp16", torch.device("cuda"))
    (None, torch.float16)
    """
    if precision == "auto" and device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    elif precision == "auto":
        precision = "bf16" if cpu_has_bf16() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

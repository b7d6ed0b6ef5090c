"""Several processes that train one network, started by torchrun; a single process needs nothing of it.

Every process has the same weights and its share of each batch. What the losses read is gathered from all of
them, so that each computes the loss of the whole batch and mines in the whole batch; batch normalisation
counts the whole batch too. The losses are therefore those of one process, up to rounding.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from training.engine.errors import TrainingError

Value = TypeVar("Value")


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes of torchrun, if it started this one, and answer the device of this one.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: there is no such device.
    """
    chosen = choose_device(device)
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield chosen
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if chosen.index >= torch.cuda.device_count():
            raise TrainingError(f"process {chosen.index} has no GPU: {torch.cuda.device_count()} are there")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TrainingError: there is none such.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"--device is auto, cpu or cuda, not {name}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda was asked for, and torch sees no CUDA device")
    return torch.device(name)


def is_joined() -> bool:
    """Say whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 writes the files."""
    return dist.get_rank() if is_joined() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_joined() else 1


def wait() -> None:
    """Wait until every process has come here."""
    if is_joined():
        dist.barrier()


def parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Return what averages the gradients of all processes after each backward pass; alone, the network."""
    if not is_joined():
        return network
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices)


def own_part(items: Sequence[Value]) -> Sequence[Value]:
    """Return this process's contiguous part of a batch, whose size the number of processes divides."""
    size = len(items) // world_size()
    return items[rank() * size : (rank() + 1) * size]


class Sum(torch.autograd.Function):
    """Add a tensor up over all processes; its gradient is the sum of what each of them sends back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """Return the sum."""
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return Sum.forward(ctx, gradient)


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks; gradients flow back to all of them.

    Each process computes the same loss of them, so each sends back one equal gradient: their sum is the
    number of processes times what is wanted, which the average that ``parallel`` takes undoes.
    """
    if not is_joined():
        return rows
    padded = rows.new_zeros((world_size(), *rows.shape))
    padded[rank()] = rows
    gathered: Tensor = Sum.apply(padded)
    return gathered.flatten(0, 1)


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a module that every process has, and that ``parallel`` does not watch."""
    if is_joined():
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()


def share(items: Sequence[Value]) -> Sequence[Value]:
    """Return what this process does of a list that all do together."""
    return items[rank() :: world_size()]


def collect(results: Mapping[int, Value]) -> list[Value]:
    """Return the results of all processes, in the order of their keys."""
    parts: list[Any] = [results]
    if is_joined():
        parts = [None] * world_size()
        dist.all_gather_object(parts, dict(results))
    everything = {key: value for part in parts for key, value in part.items()}
    return [everything[key] for key in sorted(everything)]


def synchronise_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """Let batch normalisations count the batches of all processes, in place as far as weights go."""
    if not is_joined():
        return network
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SynchronisedNorm(child))
    return network


class SynchronisedNorm(_BatchNorm):
    """Batch normalisation over all processes on a CPU, where torch's SyncBatchNorm does not run.

    It takes over another's weights and statistics. Each process must have equally many images.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise (N, C, ...)."""
        if not self.training:
            return torch.as_tensor(super().forward(input))
        values, shape = input.float(), (1, -1, *[1] * (input.dim() - 2))
        dims = [0, *range(2, input.dim())]
        count = values.numel() // self.num_features * world_size()
        mean = (Sum.apply(values.sum(dims, dtype=torch.float64)) / count).float()
        centred = values - mean.view(shape)
        variance = (Sum.apply(centred.square().sum(dims, dtype=torch.float64)) / count).float()
        if self.track_running_stats:
            self._count(mean.detach(), variance.detach() * count / (count - 1))
        scale: Tensor = self.weight * torch.rsqrt(variance + self.eps)
        normalised = centred * scale.view(shape) + self.bias.view(shape)
        return torch.as_tensor(normalised, dtype=input.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        running_mean, running_var, momentum = self.running_mean, self.running_var, self.momentum
        if running_mean is not None and running_var is not None and momentum is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1

"""Reading state dicts that ``torch.save`` wrote, without running code in the file."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "model_ema", "ema", "params")
"""Names at which programs save a state dict, the best first; FastReID has `model`."""

MAX_WRAPPERS = 3
PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    Args:
        path: a file of ``torch.save`` that holds a state dict, or a dict that has one at one of WRAPPERS.

    Returns:
        The tensors by name, without gradients, and without a prefix of PREFIXES that all names have.

    Raises:
        CheckpointError: the file is absent, torn or of another kind, or unpickling the file would run code.
    """
    try:
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"unpickling it would run {found[1]}" if found else "the file is torn or holds other objects"
        raise CheckpointError(
            f"{path} is refused: {reason}; only tensors and plain values are read"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torn bytes make torch raise nearly any error
        kind = type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a torch state dict ({kind}): the file is torn or of another kind"
        ) from error
    state = _unwrapped(content)
    if not state:
        raise CheckpointError(f"{path} holds no state dict of tensors{_told(content)}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds no state dict of tensors{_told(content)}")
        if not _is_plain(tensor):
            raise CheckpointError(f"{path} has a tensor that is not dense, real and whole in memory: {name}")
    return _without_prefix({name: tensor.detach() for name, tensor in state.items()})


def _unwrapped(content: Any) -> dict[Any, Any]:
    """Return the state dict in what a program has saved; empty if it is no dict."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, dict):
            return {}
        inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict) and content[name]]
        if not inner:
            break
        content = inner[0]
    return content if isinstance(content, dict) else {}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that torch's DataParallel and torch.compile add to every name."""
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _told(content: Any) -> str:
    """Say what a file holds instead, such as its first few names."""
    if not isinstance(content, dict):
        return f", but one {type(content).__name__}"
    names = ", ".join(ascii(name)[:50] for name in list(content)[:5])
    return f": it has {names or 'nothing'}; looked for are tensors by name, perhaps at {', '.join(WRAPPERS)}"


def _is_plain(tensor: Tensor) -> bool:
    """Say whether a tensor is dense, real and on the CPU, and has memory for each of its numbers.

    With a stride of 0, a tensor of one number could claim any size.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    is_whole = tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    return is_whole and not tensor.is_complex()

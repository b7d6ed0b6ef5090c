"""Backward-compatible training: embeddings of a new network can be compared with those of an old network.

Source: Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020. The new network is
trained with its own losses and an influence loss: the cross-entropy of the old network's classifier on the
new embeddings (section 3.2). The recipe's ``compatible_weight`` weights the influence loss, by 1 as in the
paper.

Deviations, both in the classifier:

- The classifier in a checkpoint knows other people. A new one is therefore always made as the paper makes it
  for identities that the old network has not learnt (section 3.3): the weights of an identity are the mean of
  its old embeddings, and are frozen.
- The paper takes the scale of the logits from the old classifier. The new classifier has no scale, and
  searches compare by cosine. The logits are therefore cosines times the recipe's ``compatible_scale``,
  without a bias or a margin.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.embedder import Embedder
from training.data.datasets import ReidDataset, Sample, label_pids
from training.engine.embedding import embed_samples
from training.engine.errors import TrainingError
from training.engine.evaluation import EmbeddedSplits, embed_test, evaluate_splits
from training.weights.foreign import Floats

TOLERANCE = 0.5
"""Percentage points that rank-1 across two compatible networks may lie below rank-1 of the old network."""


def make_prototypes(old: Checkpoint, samples: Sequence[Sample], embedding_size: int) -> Tensor:
    """Return an old network's classifier for the identities of samples: the mean embedding of each identity.

    The crops are embedded without augmentation. Several processes share the work, and each gets the result.

    Args:
        old: the old network.
        samples: the training split.
        embedding_size: D of the new network.

    Returns:
        float32 (C, D), in the order of the class labels (see `label_pids`).

    Raises:
        TrainingError: the old network's embeddings have another size than ``embedding_size``.
    """
    if old.card.embedding_size != embedding_size:
        raise TrainingError(
            f"embeddings of {embedding_size} dimensions cannot be compared with those of {old.version}, "
            f"which have {old.card.embedding_size}: --compatible-with needs a recipe with as many"
        )
    labels = label_pids(samples)
    embeddings = embed_samples(samples, Embedder(old).embed, "old network")
    return mean_by_class(embeddings, [labels[sample.pid] for sample in samples])


def mean_by_class(embeddings: Floats, labels: Sequence[int]) -> Tensor:
    """Return the mean of the rows of each label from 0 to C - 1, float32 (C, D).

    >>> mean_by_class(np.array([[1, 0], [0, 1], [0, 3]], np.float32), [1, 0, 1]).tolist()
    [[0.0, 1.0], [0.5, 1.5]]
    """
    sums = np.zeros((max(labels) + 1, embeddings.shape[1]))
    np.add.at(sums, list(labels), embeddings)
    return torch.from_numpy((sums / np.bincount(labels)[:, None]).astype(np.float32))


def measure(old: Checkpoint, new: EmbeddedSplits, dataset: ReidDataset) -> dict[str, Any]:
    """Evaluate new queries, and the old network's own queries, in the old network's gallery.

    Args:
        old: the old network.
        new: embeddings of the new network.
        dataset: the data set of the embeddings.

    Returns:
        The field ``compatible_with`` of a card: the version of the old network, rank-1 and mAP of the new
        queries (``cross``) and of the old queries (``old``) in percent, and ``is_strict``. ``is_strict`` is
        the paper's empirical criterion (section 3.1): rank-1 and mAP of the new queries are both higher.
    """
    before = embed_test(Embedder(old), dataset)
    cross = evaluate_splits(EmbeddedSplits(new.query, before.gallery), dataset)
    own = evaluate_splits(before, dataset)
    names = ("rank1", "mAP")
    return {
        "version": old.version,
        **{f"{name}_cross": cross[name] for name in names},
        **{f"{name}_old": own[name] for name in names},
        "is_strict": all(cross[name] > own[name] for name in names),
    }


def is_compatible(measured: Mapping[str, Any]) -> bool:
    """Say whether two networks are compatible: rank-1 across them is at most `TOLERANCE` below the old one.

    Args:
        measured: the result of `measure`.

    >>> [is_compatible({"rank1_cross": cross, "rank1_old": 90.0}) for cross in (91.0, 89.5, 89.4)]
    [True, True, False]
    """
    is_near: bool = measured["rank1_cross"] >= measured["rank1_old"] - TOLERANCE
    return is_near


def describe(measured: Mapping[str, Any]) -> str:
    """Say in sentences what `measure` found, and whether the card declares compatibility."""
    found = (
        f"new queries in the gallery of {measured['version']}: {measured['rank1_cross']:.2f} rank-1, "
        f"{measured['mAP_cross']:.2f} mAP; its own queries: {measured['rank1_old']:.2f} and "
        f"{measured['mAP_old']:.2f}"
    )
    if not is_compatible(measured):
        return (
            f"{found}\nnot compatible, so the card does not say so: rank-1 of the new queries is more "
            f"than {TOLERANCE} points below that of the old; raise the recipe's compatible_weight or backfill"
        )
    better = "find more than" if measured["is_strict"] else "do not find more than"
    return f"{found}\ncompatible, and the card says so: new queries {better} the old ones did"

"""A new network whose embeddings can be compared with those of an old one: backward-compatible training.

Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020: beside its own losses the new
network is trained by an influence loss, the old network's classifier on the new embedding (section 3.2).

We deviate from it in the classifier. Checkpoints are shipped without one that fits other people, so it is
always made as the paper makes it for people whom the old network never learnt (section 3.3): the weights of
an identity are the mean of its old embeddings, and they are frozen. The paper leaves the scale of the logits
to the old classifier. Ours has none, and searches compare by cosine; so embeddings and weights are brought to
length 1, and the logits are cosines times ``compatible_scale`` of the recipe, without a bias or a margin. The
loss is weighted by ``compatible_weight``, 1 as in the paper.
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
from training.engine.evaluation import EmbeddedSplits, embed_test, judge
from training.weights.foreign import Floats

TOLERANCE = 0.5
"""Points of rank-1 that a search across versions may lose before a card promises nothing."""


def make_prototypes(old: Checkpoint, samples: Sequence[Sample], embedding_size: int) -> Tensor:
    """Return the classifier of an old network for the identities of samples, in the order of their labels.

    The crops are embedded as they are. Several processes share the work and all get the same.

    Raises:
        TrainingError: the new network's embeddings are not of the old one's size.
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
    """Return the mean of the rows of each label 0, 1, ..., float32 (C, D).

    >>> mean_by_class(np.array([[1, 0], [0, 1], [0, 3]], np.float32), [1, 0, 1]).tolist()
    [[0.0, 1.0], [0.5, 1.5]]
    """
    sums = np.zeros((max(labels) + 1, embeddings.shape[1]))
    np.add.at(sums, list(labels), embeddings)
    return torch.from_numpy((sums / np.bincount(labels)[:, None]).astype(np.float32))


def measure(old: Checkpoint, new: EmbeddedSplits, dataset: ReidDataset) -> dict[str, Any]:
    """Search the old network's gallery with new queries and with its own; return what a card says of it.

    ``is_strict`` is the paper's empirical criterion of compatibility (section 3.1), by rank-1 and by mAP: the
    new queries find more than the old ones did, so that they are worth having before the gallery is embedded
    anew.
    """
    before = embed_test(Embedder(old), dataset)
    cross, own = judge(EmbeddedSplits(new.query, before.gallery), dataset), judge(before, dataset)
    names = ("rank1", "mAP")
    return {
        "version": old.version,
        **{f"{name}_cross": cross[name] for name in names},
        **{f"{name}_old": own[name] for name in names},
        "is_strict": all(cross[name] > own[name] for name in names),
    }


def is_promise(measured: Mapping[str, Any]) -> bool:
    """Say whether a card may say so: what was measured across versions is no worse than before, or hardly.

    >>> [is_promise({"rank1_cross": cross, "rank1_old": 90.0}) for cross in (91.0, 89.5, 89.4)]
    [True, True, False]
    """
    is_kept: bool = measured["rank1_cross"] >= measured["rank1_old"] - TOLERANCE
    return is_kept


def describe(measured: Mapping[str, Any]) -> str:
    """Say in sentences what was measured, and whether the card promises compatibility."""
    found = (
        f"new queries in the gallery of {measured['version']}: {measured['rank1_cross']:.2f} rank-1, "
        f"{measured['mAP_cross']:.2f} mAP; its own queries: {measured['rank1_old']:.2f} and "
        f"{measured['mAP_old']:.2f}"
    )
    if not is_promise(measured):
        return (
            f"{found}\nnot compatible: rank-1 across the two is more than {TOLERANCE} points below the old "
            "one, so the card promises nothing; raise compatible_weight of the recipe, or backfill"
        )
    better = "find more than" if measured["is_strict"] else "do not find more than"
    return f"{found}\ncompatible, and the card says so: new queries {better} the old ones did"

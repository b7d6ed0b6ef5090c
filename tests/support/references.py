"""Slow, obvious reference implementations, which the tests compare with the fast code."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import resnet50

from model.attention import RelationAttention, RelationAwareGlobalAttention
from model.layers import ReidNetwork

DATA = Path(__file__).parents[1] / "data"


class FullAffinityAttention(nn.Module):
    """RelationAttention as in the paper: the whole affinity matrix, then a convolution."""

    def __init__(self, fast: RelationAttention) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention map (B, 1, h, w) for nodes (B, F, h, w)."""
        fast, (batch, _, height, width) = self.fast, x.shape
        parts = torch.relu(fast.embed_norm(fast.embed(x))).chunk(fast.num_parts, dim=1)
        own = parts[-1].mean(dim=1, keepdim=True)
        if not fast.has_relations:
            return torch.sigmoid(fast.score(own))
        theta, phi = (parts[0], parts[0]) if fast.is_symmetric else parts[:2]
        affinity = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)  # (B, n, n)
        incoming = affinity.transpose(1, 2).reshape(batch, fast.nodes, height, width)
        outgoing = affinity.reshape(batch, fast.nodes, height, width)
        weight = fast.relate.weight[:, :, None, None]
        relations = nn.functional.conv2d(torch.cat([incoming, outgoing], dim=1), weight)
        relations = torch.relu(fast.relate_norm(relations))
        return torch.sigmoid(
            fast.score(torch.cat([own, relations] if fast.has_feature else [relations], dim=1))
        )


def use_full_affinity(network: ReidNetwork) -> ReidNetwork:
    """Replace, in place, every attention of a network by its full-affinity twin with the same weights."""
    for module in network.modules():
        if isinstance(module, RelationAwareGlobalAttention):
            for part in ("spatial", "channel"):
                if (fast := getattr(module, part)) is not None:
                    setattr(module, part, FullAffinityAttention(fast))
    return network


class AuthorsAttention(nn.Module):
    """One RGA module with the authors' names and the whole affinity matrix; all ratios are 8."""

    def __init__(self, channels: int, positions: int, *, spatial: bool = True, channel: bool = True) -> None:
        super().__init__()
        self.kinds = ["spatial"] * spatial + ["channel"] * channel
        for kind in self.kinds:
            features, nodes = (channels, positions) if kind == "spatial" else (positions, channels)
            for layer in ("theta", "phi", "gx"):
                self.add_module(f"{layer}_{kind}", nn.Sequential(*_layer(features, features // 8), nn.ReLU()))
            self.add_module(f"gg_{kind}", nn.Sequential(*_layer(2 * nodes, nodes // 8), nn.ReLU()))
            seen = nodes // 8 + 1
            hidden = _layer(seen, seen // 8)
            self.add_module(f"W_{kind}", nn.Sequential(*hidden, nn.ReLU(), *_layer(seen // 8, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) times its attention."""
        for kind in self.kinds:
            if kind == "spatial":
                x = x * self._attend(kind, x)
            else:
                nodes = x.flatten(2).transpose(1, 2).unsqueeze(3)
                x = x * self._attend(kind, nodes).transpose(1, 2)
        return x

    def _attend(self, kind: str, x: Tensor) -> Tensor:
        theta, phi, own = (self.get_submodule(f"{layer}_{kind}")(x) for layer in ("theta", "phi", "gx"))
        affinity = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
        both = torch.cat([affinity.transpose(1, 2), affinity], dim=1).unflatten(2, x.shape[2:])
        relations = self.get_submodule(f"gg_{kind}")(both)
        seen = torch.cat([own.mean(dim=1, keepdim=True), relations], dim=1)
        return torch.sigmoid(self.get_submodule(f"W_{kind}")(seen))


def _layer(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)]


class AuthorsNetwork(nn.Module):
    """The authors' ResNet-50 for images of 256 x 128, with their names of weights and of ``branch``."""

    def __init__(self, branch: str, num_identities: int) -> None:
        super().__init__()
        trunk: Any = resnet50(weights=None)
        first = trunk.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        del trunk.fc, trunk.avgpool
        sizes = [(256, 64 * 32), (512, 32 * 16), (1024, 16 * 8), (2048, 16 * 8)]
        kinds = {"spatial": branch != "rgac", "channel": branch != "rgas"}
        for number, size in enumerate(sizes, start=1):
            trunk.add_module(f"rga_att{number}", AuthorsAttention(*size, **kinds))
        self.backbone = trunk
        self.feat_bn = nn.BatchNorm1d(2048)
        self.cls = nn.Linear(2048, num_identities, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pooled feature and that after BatchNorm, both (N, 2048)."""
        trunk: Any = self.backbone
        maps = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
        for number in range(1, 5):
            maps = getattr(trunk, f"layer{number}")(maps)
            maps = getattr(trunk, f"rga_att{number}")(maps)
        pooled = maps.mean(dim=(2, 3))
        return {"pooled": pooled, "bn": self.feat_bn(pooled)}


def port_authors_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights or gradients of an RGA module from the authors' names to ours."""
    ported = {}
    for kind in ("spatial", "channel"):
        for name, tensor in tensors.items():
            layer, _, rest = name.partition(f"_{kind}.")
            if layer == "W" and rest:
                ported[f"{kind}.score.{rest}"] = tensor
            elif layer == "gg" and rest:
                target = "relate" if rest.startswith("0.") else "relate_norm"
                ported[f"{kind}.{target}.{rest[2:]}"] = tensor.flatten(1) if tensor.dim() == 4 else tensor
            elif layer == "theta" and rest:
                parts = [tensors[f"{one}_{kind}.{rest}"] for one in ("theta", "phi", "gx")]
                target = "embed" if rest.startswith("0.") else "embed_norm"
                ported[f"{kind}.{target}.{rest[2:]}"] = parts[0] if tensor.dim() == 0 else torch.cat(parts)
    return ported


def ranked_matches(
    distmat: NDArray[np.floating],
    q_pids: NDArray[np.int64],
    g_pids: NDArray[np.int64],
    q_camids: NDArray[np.int64],
    g_camids: NDArray[np.int64],
) -> list[list[bool]]:
    """Return, for each query with a match, whether each item that counts is a match, nearest first."""
    ranked = []
    for query in range(len(q_pids)):
        matches = []
        for _, item in sorted((distance, item) for item, distance in enumerate(distmat[query])):
            is_same = bool(g_pids[item] == q_pids[query])
            if g_pids[item] != -1 and not (is_same and g_camids[item] == q_camids[query]):
                matches.append(is_same)
        if any(matches):
            ranked.append(matches)
    return ranked


def loop_metrics(
    distmat: NDArray[np.floating],
    q_pids: NDArray[np.int64],
    g_pids: NDArray[np.int64],
    q_camids: NDArray[np.int64],
    g_camids: NDArray[np.int64],
) -> tuple[list[float], float]:
    """Return CMC at ranks 1-10 and mAP, by plain loops."""
    first_ranks, precisions = [], []
    for matches in ranked_matches(distmat, q_pids, g_pids, q_camids, g_camids):
        num_hits = 0
        found: list[float] = []
        for num_seen, is_match in enumerate(matches, start=1):
            if is_match:
                num_hits += 1
                found.append(num_hits / num_seen)
                if num_hits == 1:
                    first_ranks.append(num_seen)
        precisions.append(sum(found) / len(found))
    cmc = [sum(rank <= k for rank in first_ranks) / len(first_ranks) for k in range(1, 11)]
    return cmc, sum(precisions) / len(precisions)


def loop_trapezoid_map(
    distmat: NDArray[np.floating],
    q_pids: NDArray[np.int64],
    g_pids: NDArray[np.int64],
    q_camids: NDArray[np.int64],
    g_camids: NDArray[np.int64],
) -> float:
    """Return mAP as Market-1501's own script: trapezoids under precision over recall, from precision 1."""
    areas = []
    for matches in ranked_matches(distmat, q_pids, g_pids, q_camids, g_camids):
        area, num_hits, old_recall, old_precision = 0.0, 0, 0.0, 1.0
        for num_seen, is_match in enumerate(matches, start=1):
            num_hits += is_match
            recall, precision = num_hits / sum(matches), num_hits / num_seen
            area += (recall - old_recall) * (old_precision + precision) / 2
            old_recall, old_precision = recall, precision
        areas.append(area)
    return sum(areas) / len(areas)


def loop_minp(
    distmat: NDArray[np.floating],
    q_pids: NDArray[np.int64],
    g_pids: NDArray[np.int64],
    q_camids: NDArray[np.int64],
    g_camids: NDArray[np.int64],
) -> float:
    """Return mINP: the mean of (number of matches) / (rank of the last match) over the queries."""
    penalties = []
    for matches in ranked_matches(distmat, q_pids, g_pids, q_camids, g_camids):
        hardest = max(rank for rank, is_match in enumerate(matches, start=1) if is_match)
        penalties.append(sum(matches) / hardest)
    return sum(penalties) / len(penalties)


def loop_pooled(rows: list[list[float]]) -> list[float]:
    """Return the L2-normalised mean of rows, in Python floats."""
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    length = math.sqrt(sum(value * value for value in mean))
    return [value / length for value in mean]


def loop_triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> float:
    """Return the batch-hard triplet loss, one anchor after the other."""
    losses = []
    for anchor in range(len(labels)):
        distances = [float((embeddings[anchor] - other).norm()) for other in embeddings]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == labels[anchor])
        negative = min(d for d, label in zip(distances, labels, strict=True) if label != labels[anchor])
        losses.append(max(0.0, positive - negative + margin))
    return sum(losses) / len(losses)


def loop_soft_triplet_loss(embeddings: Tensor, labels: Tensor) -> float:
    """Return the batch-hard triplet loss with the soft margin, one anchor after the other."""
    losses = []
    for anchor in range(len(labels)):
        distances = [float((embeddings[anchor] - other).norm()) for other in embeddings]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == labels[anchor])
        negative = min(d for d, label in zip(distances, labels, strict=True) if label != labels[anchor])
        losses.append(math.log(1 + math.exp(positive - negative)))
    return sum(losses) / len(losses)


def loop_circle_loss(embeddings: Tensor, labels: Tensor, margin: float, scale: float) -> float:
    """Return the circle loss by equation 4 of its paper, in Python floats."""
    losses = []
    for anchor in range(len(labels)):
        positives = negatives = 0.0
        for other in range(len(labels)):
            cosine = float(nn.functional.cosine_similarity(embeddings[anchor], embeddings[other], dim=0))
            if labels[other] != labels[anchor]:
                negatives += math.exp(scale * max(0.0, cosine + margin) * (cosine - margin))
            elif other != anchor:
                positives += math.exp(-scale * max(0.0, 1 + margin - cosine) * (cosine - (1 - margin)))
        losses.append(math.log(1 + positives * negatives))
    return sum(losses) / len(losses)


def loop_centre_loss(embeddings: Tensor, labels: Tensor, centres: Tensor) -> float:
    """Return the centre loss, one image after the other."""
    pairs = zip(embeddings, labels, strict=True)
    return sum(float((row - centres[label]).norm()) ** 2 for row, label in pairs) / (2 * len(labels))


def loop_moved_centres(embeddings: Tensor, labels: Tensor, centres: Tensor, rate: float) -> Tensor:
    """Return the centres after one batch, one class after the other."""
    moved = centres.clone()
    for label in range(len(centres)):
        rows = [row for row, own in zip(embeddings, labels, strict=True) if own == label]
        total = torch.stack([centres[label] - row for row in rows]).sum(dim=0) if rows else 0.0
        moved[label] = centres[label] - rate * total / (1 + len(rows))
    return moved


def loop_rerank(
    qg: NDArray[np.floating],
    qq: NDArray[np.floating],
    gg: NDArray[np.floating],
    k1: int,
    k2: int,
    lambda_: float,
) -> NDArray[np.float64]:
    """Return distances re-ranked by k-reciprocal neighbours, with Python sets and full rows."""
    squared = np.block([[qq, qg], [qg.T, gg]]).astype(np.float64) ** 2
    distances = squared / np.maximum(squared.max(axis=1, keepdims=True), 1e-300)
    ranked = [[item for _, item in sorted(zip(row, range(len(row)), strict=True))] for row in distances]

    def reciprocal(item: int, k: int) -> set[int]:
        return {other for other in ranked[item][: k + 1] if item in ranked[other][: k + 1]}

    weights = np.zeros_like(distances)
    for item in range(len(distances)):
        members = reciprocal(item, k1)
        grown = set(members)
        for other in members:
            theirs = reciprocal(other, round(k1 / 2))
            if 3 * len(theirs & members) > 2 * len(theirs):
                grown |= theirs
        for other in grown:
            weights[item, other] = math.exp(-distances[item, other])
        weights[item] /= max(weights[item].sum(), 1e-300)
    if k2 > 1:
        weights = np.array([weights[nearest[:k2]].mean(axis=0) for nearest in ranked])
    reranked = np.zeros(qg.shape)
    for query in range(len(qg)):
        for item in range(qg.shape[1]):
            shared = np.minimum(weights[query], weights[len(qg) + item]).sum()
            jaccard = 1 - shared / (2 - shared)
            reranked[query, item] = (1 - lambda_) * jaccard + lambda_ * distances[query, len(qg) + item]
    return reranked


def loop_influence_loss(embeddings: Tensor, labels: Tensor, prototypes: Tensor, scale: float) -> float:
    """Return the cross-entropy of an old classifier's cosines, in Python floats."""
    losses = []
    for row, label in zip(embeddings, labels, strict=True):
        cosines = [float(nn.functional.cosine_similarity(row, weights, dim=0)) for weights in prototypes]
        total = sum(math.exp(scale * (cosine - cosines[int(label)])) for cosine in cosines)
        losses.append(math.log(total))
    return sum(losses) / len(losses)


def loop_prototypes(embeddings: list[list[float]], labels: list[int]) -> list[list[float]]:
    """Return the mean of the rows of each label, in Python floats."""
    prototypes = []
    for wanted in range(max(labels) + 1):
        rows = [row for row, label in zip(embeddings, labels, strict=True) if label == wanted]
        prototypes.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    return prototypes

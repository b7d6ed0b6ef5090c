"""Relation-aware global attention (RGA), computed without the affinity matrix of all pairs of nodes.

Source: Zhang, Lan, Zeng, Jin, Chen, "Relation-Aware Global Attention for Person Re-identification",
CVPR 2020, section 3. There are two deviations. Both change results by rounding alone:

* Theta, phi and the embedding of the feature itself read the same input. Therefore one convolution with one
  BatchNorm computes all three, and its output is split.
* The affinity G = Theta Phi^T is never built, because the relation embedding is linear in G. With Theta and
  Phi of shape (n, e) and weights [W_in, W_out] of shape (r, 2n), the relation embedding is
  ``W_in G^T + W_out G = (W_in Phi) Theta^T + (W_out Theta) Phi^T``. The right side takes O(n e r) operations,
  the left side O(n^2 r).

Shape legend: B batch, F features of a node, n nodes (h x w), e embedding size, r relation size.
"""

import functools

import torch
from torch import Tensor, nn


def reduced(size: int, ratio: int) -> int:
    """Divide a number of channels by a ratio, with at least 1 as the result.

    >>> reduced(64, 8), reduced(5, 8)
    (8, 1)
    """
    return max(1, size // ratio)


class RelationAttention(nn.Module):
    """One attention value in (0, 1) for each node, from its own feature and its relations to all nodes.

    Source: RGA paper, section 3; its 1 x 1 convolutions over relations are a linear layer here.

    Args:
        features: size F of a node's feature.
        nodes: number n of nodes. The number is fixed, because the relation weights have two columns a node.
        reduction: ratio by which embeddings are smaller: e = F / reduction and r = n / reduction.
        squeeze: ratio by which the hidden layer of the last step is smaller than its input.
        inputs: ``both``, or for the paper's ablations ``relations`` or ``feature`` alone.
        is_symmetric: use theta for phi too, so that a relation is the same in both directions.

    Raises:
        ValueError: ``inputs`` is unknown.
    """

    def __init__(
        self,
        features: int,
        nodes: int,
        *,
        reduction: int = 8,
        squeeze: int = 8,
        inputs: str = "both",
        is_symmetric: bool = False,
    ) -> None:
        super().__init__()
        if inputs not in ("both", "relations", "feature"):
            raise ValueError(f"inputs is both, relations or feature, not {inputs!r}")
        embedding, relations = reduced(features, reduction), reduced(nodes, reduction)
        self.nodes, self.is_symmetric = nodes, is_symmetric
        self.has_relations, self.has_feature = inputs != "feature", inputs != "relations"
        self.num_parts = self.has_feature + self.has_relations * (1 if is_symmetric else 2)
        self.embed = _convolution(features, self.num_parts * embedding)
        self.embed_norm = nn.BatchNorm2d(self.num_parts * embedding)
        if self.has_relations:
            self.relate = nn.Linear(2 * nodes, relations, bias=False)
            self.relate_norm = nn.BatchNorm2d(relations)
        num_inputs = self.has_feature + self.has_relations * relations
        hidden = reduced(num_inputs, squeeze)
        self.score = nn.Sequential(
            _convolution(num_inputs, hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            _convolution(hidden, 1),
            nn.BatchNorm2d(1),
        )
        if self.has_relations:
            nn.init.kaiming_normal_(self.relate.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention map (B, 1, h, w) for nodes (B, F, h, w)."""
        return self.attend(self.embeddings(x))

    def embeddings(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return theta, phi and the embedding of the feature itself, each (B, e, h, w).

        Without ``feature`` among the inputs, or with ``is_symmetric``, there is one embedding less. With
        ``feature`` alone there is one embedding.
        """
        return torch.relu(self.embed_norm(self.embed(x))).chunk(self.num_parts, dim=1)

    def attend(self, embeddings: tuple[Tensor, ...]) -> Tensor:
        """Return the attention map (B, 1, h, w) for the result of ``embeddings``."""
        inputs = [embeddings[-1].mean(dim=1, keepdim=True)] if self.has_feature else []
        if self.has_relations:
            theta, phi = embeddings[0], embeddings[0 if self.is_symmetric else 1]
            relations = self.relations(theta.flatten(2), phi.flatten(2))
            inputs.append(torch.relu(self.relate_norm(relations.unflatten(2, theta.shape[2:]))))
        return torch.sigmoid(self.score(torch.cat(inputs, dim=1)))

    def relations(self, theta: Tensor, phi: Tensor) -> Tensor:
        """Embed the relations of every node to all nodes.

        Args:
            theta: float (B, e, n).
            phi: float (B, e, n).

        Returns:
            float (B, r, n), before BatchNorm.
        """
        incoming, outgoing = self.relate.weight.split(self.nodes, dim=1)
        linear = nn.functional.linear
        mixed = torch.cat([linear(phi, incoming), linear(theta, outgoing)], dim=1)  # (B, 2e, r)
        return torch.matmul(mixed.transpose(1, 2), torch.cat([theta, phi], dim=1))


class RelationAwareGlobalAttention(nn.Module):
    """The modules RGA-S, RGA-C and RGA-SC for a feature map of a fixed size.

    The spatial part (RGA-S) weights places, the channel part (RGA-C) weights channels. Source: RGA paper,
    section 3, and section 4.3 for the ablations.

    Args:
        channels: channels C of the feature map.
        height: height H of the feature map.
        width: width W of the feature map.
        spatial: have the spatial part.
        channel: have the channel part.
        order: ``spatial_first`` gives the channel part the output of the spatial part, as RGA-SC does;
            ``channel_first`` is the reverse. ``parallel`` gives the input to both parts and multiplies their
            maps, which is our reading of section 4.3.
        reduction: as in RelationAttention.
        squeeze: as in RelationAttention.
        inputs: as in RelationAttention.
        is_symmetric: as in RelationAttention.

    Raises:
        ValueError: both parts are left out, a size or ratio is below 1, or an option is unknown.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        spatial: bool = True,
        channel: bool = True,
        order: str = "spatial_first",
        reduction: int = 8,
        squeeze: int = 8,
        inputs: str = "both",
        is_symmetric: bool = False,
    ) -> None:
        super().__init__()
        if not (spatial or channel):
            raise ValueError("RGA needs its spatial part, its channel part or both")
        if min(channels, height, width, reduction, squeeze) < 1:
            raise ValueError("channels, height, width, reduction and squeeze must be at least 1")
        if order not in ("spatial_first", "channel_first", "parallel"):
            raise ValueError(f"order is spatial_first, channel_first or parallel, not {order!r}")
        self.grid, self.order = (channels, height, width), order
        positions = height * width
        make = functools.partial(
            RelationAttention, reduction=reduction, squeeze=squeeze, inputs=inputs, is_symmetric=is_symmetric
        )
        self.spatial = make(channels, positions) if spatial else None
        self.channel = make(positions, channels) if channel else None

    def forward(self, x: Tensor) -> Tensor:
        """Weight a feature map by its attention.

        Args:
            x: float (B, C, H, W).

        Returns:
            float (B, C, H, W).

        Raises:
            ValueError: the map has another size than the module was built for.
        """
        if tuple(x.shape[1:]) != self.grid:
            raise ValueError(f"expected a map of (B, {', '.join(map(str, self.grid))}), got {tuple(x.shape)}")
        if self.order == "parallel":
            return x * self._spatial_map(x) * self._channel_map(x)
        maps = [self._spatial_map, self._channel_map]
        for attend in maps if self.order == "spatial_first" else reversed(maps):
            x = x * attend(x)
        return x

    def _spatial_map(self, x: Tensor) -> Tensor | float:
        return 1.0 if self.spatial is None else self.spatial(x)  # (B, 1, H, W)

    def _channel_map(self, x: Tensor) -> Tensor | float:
        if self.channel is None:
            return 1.0
        nodes = x.flatten(2).transpose(1, 2).unsqueeze(3)  # (B, H*W, C, 1): channels are the nodes
        attention: Tensor = self.channel(nodes).transpose(1, 2)
        return attention  # (B, C, 1, 1)


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution

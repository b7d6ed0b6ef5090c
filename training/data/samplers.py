"""P x K batches: P identities with K crops each (Hermans et al., "In Defense of the Triplet Loss", 2017)."""

import random
from collections import defaultdict
from collections.abc import Sequence


class IdentitySampler:
    """Draws batches of P different identities with K crops each, by a seed and the number of the epoch.

    An incomplete last batch is dropped. An identity with fewer than K crops left shows some of its crops
    again.

    Args:
        pids: the identity of each sample.
        identities: P.
        images: K.
        seed: of the order of all epochs.
        draws: the length of an epoch. ``images`` draws crops until fewer than P identities have any left;
            ``identities`` draws K crops of each identity once.

    Raises:
        ValueError: there are fewer than P identities, or no identity has K images.
    """

    def __init__(
        self, pids: Sequence[int], identities: int, images: int, *, seed: int, draws: str = "images"
    ) -> None:
        self._positions: dict[int, list[int]] = defaultdict(list)
        for position, pid in enumerate(pids):
            self._positions[pid].append(position)
        if len(self._positions) < identities:
            raise ValueError(f"a batch takes {identities} identities, the data have {len(self._positions)}")
        if (most := max(map(len, self._positions.values()))) < images:
            raise ValueError(f"a batch takes {images} images of an identity, and none has more than {most}")
        self._identities, self._images, self._seed, self._draws = identities, images, seed, draws

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch as positions of samples; crops of one identity are adjacent."""
        rng = random.Random(f"{self._seed}/{epoch}")  # noqa: S311 - a shuffle, not a secret
        groups = {pid: self._groups(positions, rng) for pid, positions in self._positions.items()}
        if self._draws == "identities":
            return self._each_identity_once(groups, rng)
        batches = []
        while len(groups) >= self._identities:
            chosen = rng.sample(list(groups), self._identities)
            batches.append([position for pid in chosen for position in groups[pid].pop()])
            groups = {pid: left for pid, left in groups.items() if left}
        return batches

    def _each_identity_once(self, groups: dict[int, list[list[int]]], rng: random.Random) -> list[list[int]]:
        pids = rng.sample(list(groups), len(groups))
        starts = range(0, len(pids) - self._identities + 1, self._identities)
        return [
            [position for pid in pids[start : start + self._identities] for position in groups[pid][0]]
            for start in starts
        ]

    def _groups(self, positions: list[int], rng: random.Random) -> list[list[int]]:
        shuffled = rng.sample(positions, len(positions))
        if missing := -len(shuffled) % self._images:
            shuffled += rng.choices(positions, k=missing)
        return [shuffled[start : start + self._images] for start in range(0, len(shuffled), self._images)]

"""P x K batches: P identities with K crops each (Hermans et al., "In Defense of the Triplet Loss", 2017)."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class IdentitySampler(Sampler[list[int]]):
    """Batches of P different identities with K crops each, until fewer than P identities have crops left.

    An identity with fewer than K crops left repeats some. The order is a function of (seed, epoch) alone, so
    a resumed run sees what an uninterrupted one does.

    Raises:
        ValueError: there are fewer than P identities.
    """

    def __init__(self, pids: Sequence[int], identities: int, images: int, *, seed: int) -> None:
        self._positions: dict[int, list[int]] = defaultdict(list)
        for position, pid in enumerate(pids):
            self._positions[pid].append(position)
        if len(self._positions) < identities:
            raise ValueError(f"a batch takes {identities} identities, the data have {len(self._positions)}")
        self._identities, self._images, self._seed = identities, images, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches(self.epoch))

    def __len__(self) -> int:
        return len(self._batches(self.epoch))

    def _batches(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"{self._seed}/{epoch}")  # noqa: S311 - a shuffle, not a secret
        groups = {pid: self._groups(positions, rng) for pid, positions in self._positions.items()}
        batches = []
        while len(groups) >= self._identities:
            chosen = rng.sample(list(groups), self._identities)
            batches.append([position for pid in chosen for position in groups[pid].pop()])
            groups = {pid: left for pid, left in groups.items() if left}
        return batches

    def _groups(self, positions: list[int], rng: random.Random) -> list[list[int]]:
        shuffled = rng.sample(positions, len(positions))
        if missing := -len(shuffled) % self._images:
            shuffled += rng.choices(positions, k=missing)
        return [shuffled[start : start + self._images] for start in range(0, len(shuffled), self._images)]

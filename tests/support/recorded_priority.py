"""Which waits for searches happen, and how long they may be."""

from service.serving.priority import Priority


class RecordedPriority(Priority):
    """Notes of each wait for searches its longest time, and how many searches there still were at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[float, int]] = []

    def _wait_for_searches(self, at_most_s: float) -> None:
        super()._wait_for_searches(at_most_s)
        self.waits.append((at_most_s, self._num_searches))

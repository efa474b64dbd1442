"""Time that a part of the check may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Budget:
    """Seconds from now on, after which nothing new starts; what has started ends."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self.left_out: list[str] = []
        """What has not been started, by name."""

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative if more were spent."""
        return self._end - self._clock()

    def take(self, items: Iterable[T], name: Callable[[T], str] = str) -> Iterator[T]:
        """Yield the first item, others while there is time, and note the rest as left out."""
        for index, item in enumerate(items):
            if index == 0 or self.left_s > 0:
                yield item
            else:
                self.left_out.append(name(item))


def share(left_s: float, shares: Sequence[float]) -> float:
    """Return the seconds of the first of several parts that share what is left.

    So the seconds that a part does not need go to those after it.
    """
    return max(left_s, 0.0) * shares[0] / sum(shares)

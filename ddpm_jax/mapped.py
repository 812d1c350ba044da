"""Points that stay on disk: the shards of a directory as one array, rows read on demand."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int, Num

BLOCK_VALUES = 2**21
"""Values read at a time where all are: 16 MiB as float64."""


class MappedPoints:
    """Points [N, D] in arrays [N_i, D], such as memory maps; what is indexed becomes float64."""

    def __init__(self, shards: Sequence[Num[np.ndarray, "_ d"]]) -> None:
        self.shards = shards
        self.starts = np.cumsum([0, *map(len, shards)])
        self.shape = int(self.starts[-1]), shards[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch d"]:
        """The points of those rows, read in the order in which they lie on the disk."""
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        found = np.empty((rows.size, self.shape[1]))
        order = np.argsort(rows, axis=None, kind="stable")
        wanted = rows.ravel()[order]
        bounds = np.searchsorted(wanted, self.starts)
        for shard, first, begin, end in zip(
            self.shards, self.starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            found[order[begin:end]] = shard[wanted[begin:end] - first]
        return found.reshape(*rows.shape, self.shape[1])

    def some(self, count: int) -> Float64[np.ndarray, "n d"]:
        """All points, or `count` of them that are spread evenly over the rows."""
        count = min(count, len(self))
        return self[np.arange(count) * len(self) // count]


Points = Num[np.ndarray, "n d"] | MappedPoints


def blocks(points: Points) -> Iterator[np.ndarray]:
    """All points in order, a bounded number at a time."""
    size = max(BLOCK_VALUES // points.shape[1], 1)
    for start in range(0, len(points), size):
        end = min(start + size, len(points))
        mapped = isinstance(points, MappedPoints)
        yield points[np.arange(start, end)] if mapped else points[start:end]

"""Columns of numbers and of words as coordinates in which distances between rows mean something."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ddpm_jax.errors import InputError


@dataclass(frozen=True)
class Gower:
    """Coordinates whose L1 distance is Gower's distance.

    d(x, y) = 1/D Σ_j |x_j − y_j| / range_j over columns of numbers, and 1/D [x_j ≠ y_j] over those
    of words. Ranges and words are those of the rows that it is made for; a constant column counts
    nothing, and words that these rows lack are all one. Source: Gower 1971, equation 5.
    """

    ranges: tuple[float | None, ...]
    words: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(columns: Sequence[np.ndarray]) -> "Gower":
        """For rows given by columns: arrays of numbers, or of words (object or string arrays).

        Raises: InputError for a number that is missing or not finite.
        """
        ranges, words = [], []
        for j, column in enumerate(columns):
            numbers = _numbers(j, column)
            ranges.append(None if numbers is None else float(np.ptp(numbers)))
            words.append(() if numbers is not None else tuple(sorted({str(w) for w in column})))
        return Gower(tuple(ranges), tuple(words))

    def __call__(self, columns: Sequence[np.ndarray]) -> Float[np.ndarray, "N E"]:
        """The coordinates of rows: one of each column of numbers, of words one more than there are.

        Raises: InputError where the columns are not as many, or not of the kinds that it knows.
        """
        if len(columns) != len(self.ranges):
            raise InputError(f"{len(columns)} columns; expected {len(self.ranges)}, as fitted")
        parts = []
        for j, (column, (width, words)) in enumerate(zip(columns, self._columns(), strict=True)):
            numbers = _numbers(j, column)
            if (numbers is None) != (width is None):
                kinds = ("numbers", "words") if width is None else ("words", "numbers")
                raise InputError(f"column {j + 1} has {kinds[0]}; expected {kinds[1]}, as fitted")
            if numbers is None:
                index = {word: i for i, word in enumerate(words)}
                which = [index.get(str(word), len(words)) for word in column]
                # Two different rows of this matrix are 1/2 + 1/2 apart.
                parts.append(np.eye(len(words) + 1)[which] / 2)
            else:
                parts.append((numbers / width if width else np.zeros_like(numbers))[:, None])
        return np.concatenate(parts, axis=1) / len(columns)

    def snap(
        self, coordinates: Float[np.ndarray, "N K"], kept: Bool[np.ndarray, " E"]
    ) -> Float[np.ndarray, "N K"]:
        """Coordinates, those `kept` of all, with the likeliest word of each column and no other.

        So a rival that knows nothing of words draws some all the same.
        """
        widths = [len(words) + 1 if span is None else 1 for span, words in self._columns()]
        whose = np.repeat(np.arange(len(widths)), widths)[kept]
        snapped = coordinates.copy()
        for j, words in enumerate(self.words):
            places = np.flatnonzero(whose == j)
            if words and len(places):
                best = snapped[:, places].argmax(axis=1)
                snapped[:, places] = np.eye(len(places))[best] / (2 * len(widths))
        return snapped

    def _columns(self) -> Iterator[tuple[float | None, tuple[str, ...]]]:
        return zip(self.ranges, self.words, strict=True)


def _numbers(j: int, column: np.ndarray) -> np.ndarray | None:
    """The column in float64, or None if it holds words."""
    if column.dtype.kind not in "biuf":
        return None
    numbers = column.astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise InputError(f"column {j + 1} is {numbers[row]} in row {row + 1}: leave such rows out")
    return numbers

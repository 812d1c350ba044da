"""How words are best told to a diffusion of numbers: one-hot, or analog bits: the study `words`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

import ddpm_jax
from studies.quality.fit import Row, Study, over, over_seeds, say
from studies.quality.table_scores import is_word
from studies.quality.tables import DRAWS, mean_scores, split


@dataclass(frozen=True)
class Words(Study):
    """One-hot with argmax (as shipped) beside analog bits (Chen et al. 2022, arXiv 2208.04202)."""

    only: tuple[str, ...] = ("penguins", "cars", "weather", "votes")
    """Public tables with words."""
    seeds: int = 2
    """Seeds of the split, of training and of sampling."""

    workers: int = 1
    """Processes that train and measure at once."""

    def __call__(self) -> list[Row]:
        """Train and measure with either code on each table, for every seed."""
        cases = [(name, code) for name in self.only for code in CODES]
        found = over_seeds(_measure, cases, self.seeds, self.workers)
        return [
            {"table": name, "code": code, **over(of_seeds)}
            for (name, code), of_seeds in zip(cases, found, strict=True)
        ]


def _measure(name: str, code: str, seed: int) -> Row:
    """Train with one code on four fifths of a table, and measure against the last."""
    # Only here: what it needs is an extra of the package.
    from studies.quality import public_tables

    public = public_tables.PUBLIC[name]
    train, held_out = split(public.load(), seed)
    drawn, impossible = CODES[code](train, DRAWS * len(train), seed)
    means = mean_scores(train, held_out, drawn, public.target, seed)
    say(name, code, seed, *means.values())
    return means | {"no word, %": 100 * impossible}


def one_hot(train: Any, number: int, seed: int) -> tuple[Any, float]:
    """As shipped: a column for each word, and the largest one wins."""
    model = ddpm_jax.fit(train, seed=seed, progress=False)
    return model.sample(number, seed=seed, sampler="sa-solver", steps=50), 0.0


def analog_bits(train: Any, number: int, seed: int) -> tuple[Any, float]:
    """Each word as the bits of its number, ±1/2, rounded again; and the share of no word's bits.

    Where the bits are none's, the word is the one whose bits are nearest.
    """
    levels = {n: sorted(train[n].unique()) for n in train if is_word(train[n])}
    coded = train.drop(columns=list(levels))
    for name, words in levels.items():
        bits = _bits(len(words))[train[name].map(words.index).to_numpy()]
        for j in range(bits.shape[1]):
            coded[f"{name} bit {j}"] = bits[:, j]
    # Numbers as they are, so that the code alone is what differs: no lattice for the bits.
    kinds = [f"{name} bit {j}=real" for name, words in levels.items() for j in _places(words)]
    model = ddpm_jax.fit(coded, seed=seed, progress=False, kinds=kinds)
    drawn = model.sample(number, seed=seed, sampler="sa-solver", steps=50)
    impossible = np.zeros(number, bool)
    for name, words in levels.items():
        columns = [f"{name} bit {j}" for j in _places(words)]
        z, codes = drawn[columns].to_numpy(), _bits(len(words))
        rounded = np.where(z > 0, 0.5, -0.5)
        impossible |= ~(rounded[:, None] == codes[None]).all(axis=2).any(axis=1)
        nearest = ((z[:, None] - codes[None]) ** 2).sum(axis=2).argmin(axis=1)
        drawn = drawn.drop(columns=columns).assign(**{name: np.array(words, object)[nearest]})
    return drawn[list(train)], float(impossible.mean())


CODES = {"one-hot": one_hot, "analog bits": analog_bits}


def _places(words: list) -> range:
    return range(_bits(len(words)).shape[1])


def _bits(count: int) -> np.ndarray:
    """The bits of 0, 1, ..., count - 1 as ±1/2."""
    width = max(int(count - 1).bit_length(), 1)
    return (np.arange(count)[:, None] >> np.arange(width) & 1) - 0.5

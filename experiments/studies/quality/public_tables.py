"""Public tables of numbers and words that packages ship, and who else learns them.

None of the tables had a part in tuning the recipe. Each rival takes training rows and draws as many
new ones: a Gaussian copula and a mixture, written here in a few lines, and ForestDiffusion
(Jolicoeur-Martineau et al. 2024, arXiv 2309.09968), gradient-boosted trees in a diffusion, which
was first of eight in its own comparison.
"""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import datasets

import ddpm_jax
from ddpm_jax import gmm
from ddpm_jax.errors import InputError
from studies.quality.table_scores import is_word

Draw = Callable[[Any, int, int], Any]
"""`draw(training rows, number, seed) -> new rows`, with the columns and kinds of the old."""


@dataclass(frozen=True)
class Public:
    """A table, and the column that a classifier or a regression is to tell from the others."""

    load: Callable[[], pd.DataFrame]
    target: str


def needed(module: str, package: str):
    """The module, or a sentence about where to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{package} is needed: pip install 'ddpm-jax[rivals]'") from None


def _bundled(name: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        found = getattr(datasets, f"load_{name}")(as_frame=True)
        if not hasattr(found, "target_names"):
            return found.frame
        return found.frame.assign(target=np.array(found.target_names)[found.target])

    return load


def _penguins() -> pd.DataFrame:
    return needed("palmerpenguins", "palmerpenguins").load_penguins().dropna()


def _cars() -> pd.DataFrame:
    cars = needed("vega_datasets", "vega_datasets").local_data.cars().dropna()
    return cars.assign(Year=cars["Year"].dt.year).drop(columns="Name")


def _weather() -> pd.DataFrame:
    found = needed("vega_datasets", "vega_datasets").local_data.seattle_weather()
    return found.assign(month=found["date"].dt.month).drop(columns="date")


def _statsmodels(name: str, **changes: object) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        data = getattr(needed("statsmodels.api", "statsmodels").datasets, name)
        return data.load_pandas().data.assign(**changes)

    return load


PUBLIC = {
    "penguins": Public(_penguins, "species"),  # 333 rows: 4 measures, 3 words, a year
    "cars": Public(_cars, "Origin"),  # 392 rows: 7 numbers, whole ones among them, a word
    "weather": Public(_weather, "weather"),  # 1461 days: rain that is mostly zero, a word
    "votes": Public(  # 944 people: whole numbers on scales of 7, a word
        _statsmodels("anes96", vote=lambda d: np.where(d["vote"] == 1, "Dole", "Clinton")), "vote"
    ),
    "diabetes": Public(_bundled("diabetes"), "target"),  # 442 rows: 11 numbers
    "wine": Public(_bundled("wine"), "target"),  # 178 rows: 13 numbers, a word
}
"""Complete rows of each: the rivals take no others."""


def diffusion(rows: Any, number: int, seed: int) -> Any:
    """This project, with every setting left to it."""
    model = ddpm_jax.fit(rows, seed=seed, progress=False)
    return model.sample(number, seed=seed, sampler="sa-solver", steps=50)


def training_rows(rows: Any, number: int, seed: int) -> Any:
    """The rows themselves: what a copy scores, and what to hold the others against."""
    rng, times = np.random.default_rng(seed), -(-number // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(times)])
    return rows.iloc[order[:number]]


def copula(rows: Any, number: int, seed: int) -> Any:
    """Normal scores of ranks, correlated as they are, and back by each column's own quantiles.

    A word is the interval of a normal score that its share of the rows takes up.
    """
    rng = np.random.default_rng(seed)
    codes = rows.apply(lambda c: c.astype("category").cat.codes if is_word(c) else c)
    # Equal values, words among them, in random order: the interval is filled evenly.
    order = np.lexsort((rng.random(codes.shape).T, codes.to_numpy().T)).T
    uniform = (np.argsort(order, axis=0) + 0.5) / len(rows)
    correlation = np.atleast_2d(np.corrcoef(stats.norm.ppf(uniform), rowvar=False))
    root = np.linalg.cholesky(correlation + 1e-6 * np.eye(len(correlation)))
    drawn = stats.norm.cdf(rng.standard_normal((number, len(root))) @ root.T)
    columns = {}
    for i, name in enumerate(rows):
        ordered = rows[name].sort_values(ignore_index=True)
        whole = is_word(ordered) or pd.api.types.is_integer_dtype(ordered)
        method = "inverted_cdf" if whole else "linear"
        places = np.arange(len(ordered))
        found = np.quantile(places, drawn[:, i], method=method)
        columns[name] = (
            ordered.to_numpy()[found.astype(int)] if whole else np.interp(found, places, ordered)
        )
    return pd.DataFrame(columns)


def mixture(rows: Any, number: int, seed: int) -> Any:
    """A Gaussian mixture by BIC, of standardised numbers and one-hot words; whole ones rounded."""
    rng = np.random.default_rng(seed)
    codes = pd.get_dummies(rows, dtype=float)
    spread = codes.std().replace(0, 1.0)
    spread[[name for name in codes if name not in rows]] = 1.0
    found = gmm.least_bic(((codes - codes.mean()) / spread).to_numpy(), seed)
    which = rng.choice(len(found.weights), number, p=found.weights)
    roots = np.linalg.cholesky(found.covariances)
    z = rng.standard_normal((number, codes.shape[1]))
    drawn = found.means[which] + np.einsum("nij,nj->ni", roots[which], z)
    drawn: Any = pd.DataFrame(drawn, columns=codes.columns) * spread + codes.mean()
    columns = {}
    for name in rows:
        if is_word(rows[name]):
            words = drawn[[c for c in drawn if c not in rows and c.startswith(f"{name}_")]]
            columns[name] = words.idxmax(axis=1).astype(str).str.removeprefix(f"{name}_")
        else:
            whole = pd.api.types.is_integer_dtype(rows[name])
            columns[name] = drawn[name].round() if whole else drawn[name]
    return pd.DataFrame(columns)


def forest_diffusion(rows: Any, number: int, seed: int) -> Any:
    """ForestDiffusion at its defaults, but for 25 noise levels and 10 copies of the rows.

    They are 50 and 100 by default, in twenty times the time.
    """
    model = needed("ForestDiffusion", "ForestDiffusion").ForestDiffusionModel
    codes = rows.apply(lambda c: c.astype("category").cat.codes if is_word(c) else c)
    names = list(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forest = model(
            np.array(codes, float),  # it writes into it
            n_t=25,
            duplicate_K=10,
            cat_indexes=[i for i, n in enumerate(names) if is_word(rows[n])],
            int_indexes=[i for i, n in enumerate(names) if pd.api.types.is_integer_dtype(rows[n])],
            n_jobs=1,
            seed=seed,
        )
        # It rounds in place what pandas 3 gives it as read-only.
        clip = forest.clip_extremes
        forest.clip_extremes = lambda x: clip(np.array(x))
        drawn = pd.DataFrame(forest.generate(batch_size=number), columns=names).astype(float)
    for name in names:
        if is_word(rows[name]):
            words = rows[name].astype("category").cat.categories.to_numpy()
            drawn[name] = words[drawn[name].astype(int)]
    return drawn


RIVALS: dict[str, Draw] = {
    "Gaussian copula": copula,
    "Gaussian mixture": mixture,
    "ForestDiffusion": forest_diffusion,
}

"""What each setting of the fast preset is worth: a study of quality.py."""

from dataclasses import dataclass

from ddpm_jax.config import PRESETS
from ddpm_jax.errors import ConfigError
from ddpm_jax.planning import plan
from ddpm_jax.points.sources import load_points
from studies.quality.fit import Row, Study, fit, floor, over, over_seeds, quick, say

VARIANTS: dict[str, dict] = {
    "fast preset": {},
    "no tables": {"tables": ()},
    "tables 32..128": {"tables": (32, 64, 128)},
    "8 features a table": {"table_features": 8},
    "width 128": {"width": 128},
    "depth 3": {"depth": 3},
    "batch 1024": {"batch_size": 1024},
    "batch 1024, half the steps": {"batch_size": 1024},
    "batch 1024, a quarter of the steps": {"batch_size": 1024},
    "points_per_time 1": {"points_per_time": 1},
    "independent times": {"stratified": False},
    "no average": {"ema_decay": 0.0},
    "constant rate": {"decay": "constant"},
    "rate 2e-3": {"learning_rate": 2e-3},
    "rate 8e-3": {"learning_rate": 8e-3},
    "linear schedule": {"schedule": "linear"},
    "cosine schedule": {"schedule": "cosine"},
    "sigmoid k = 10": {"sigmoid_k": 10.0},
    "sigmoid k = 16": {"sigmoid_k": 16.0},
    "T = 250": {"num_steps": 250},
    "x0 prediction": {"prediction": "x0"},
    "v prediction": {"prediction": "v"},
    "over a Gaussian": {"base": "gaussian"},
    "over a mixture": {"base": "mixture"},
    "nothing held out": {"hold_out": 0.0},
}

SHARES = {"batch 1024, half the steps": 1 / 2, "batch 1024, a quarter of the steps": 1 / 4}
"""Of the training steps, for variants whose steps take longer."""


@dataclass(frozen=True)
class Ablation(Study):
    """The fast preset with one setting changed at a time, as many training steps each."""

    data: tuple[str, ...] = ("bicycle",)
    """Files of points, or toy distributions."""
    train_steps: int = 6000
    """Training steps; the preset takes 51,606 on the bicycle."""
    seeds: int = 3
    """Seeds of training and sampling; ± is their standard deviation."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which rows."""
    num_samples: int = 20_000
    """Samples measured."""
    workers: int = 1
    """Processes that train and measure at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.variants:
            if name not in VARIANTS:
                raise ConfigError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")

    def __call__(self) -> list[Row]:
        """Train and measure every variant on every data set."""
        rows = []
        for source in self.data:
            cases = [(self, source, name) for name in self.variants]
            found = over_seeds(_measure, cases, self.seeds, self.workers)
            for name, of_seeds in zip(self.variants, found, strict=True):
                rows.append({"data": source, "variant": name, **over(of_seeds)})
                say(*rows[-1].values())
            data = load_points(source)
            scaled = plan(PRESETS["fast"], data).scaler.apply(data)
            floors = floor(scaled, self.num_samples, self.seeds)
            rows.append({"data": source, "variant": "real points", **floors})
        return rows


def _measure(study: Ablation, source: str, name: str, seed: int) -> Row:
    """Train one variant from one seed and measure it, in the unit of the scaled data."""
    config, data = PRESETS["fast"].replace(seed=seed, **VARIANTS[name]), load_points(source)
    model = fit(config, data, round(study.train_steps * SHARES.get(name, 1)))
    scale = model.run.scaler.apply
    samples = scale(model.sample(study.num_samples, seed))
    return quick(scale(data), samples) | {"train s": model.seconds}

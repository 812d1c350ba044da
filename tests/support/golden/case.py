"""The inputs that both sides are given, from a frozen random stream; the files hold outputs."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """Weights, batches, x_T and noises, all determined by these settings; 2-D points, T = 1000."""

    dtype: str
    seed: int = 0
    width: int = 16
    batch: int = 32
    adam_steps: tuple[int, ...] = (1, 10, 100)
    reverse_steps: int = 50
    paths: int = 16
    epoch_points: int = 75

    def normal(self, name: str, *shape: int) -> np.ndarray:
        """Standard normal numbers, others for each name."""
        return self._stream(name).standard_normal(shape).astype(self.dtype)

    def times(self, name: str, *shape: int) -> np.ndarray:
        """Whole numbers in 0..999, other ones for each name."""
        return self._stream(name).randint(0, 1000, shape)

    def _stream(self, name: str) -> np.random.RandomState:
        # The legacy generator: NumPy has promised never to change its streams (NEP 19).
        return np.random.RandomState([self.seed, *name.encode()])

    def state_dict(self) -> dict[str, np.ndarray]:
        """Weights under PyTorch's names, uniform within PyTorch's bounds."""
        width = self.width
        shapes = {
            "embedding.linear1": (width, 50),
            "embedding.linear2": (width, width),
            "layers.0": (width, 2),
            "layers.1": (width, width),
            "layers.2": (width, width),
            "out": (2, width),
        }
        weights = {}
        for name, (fan_out, fan_in) in shapes.items():
            for leaf, shape in {"weight": (fan_out, fan_in), "bias": (fan_out,)}.items():
                draw = self._stream(f"{name}.{leaf}").uniform(-1, 1, shape)
                weights[f"{name}.{leaf}"] = (draw / fan_in**0.5).astype(self.dtype)
        return weights

    def batches(self, name: str, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x0, t and ε of that many points; the first two times are 0 and 999."""
        t = self.times(f"{name} t", *shape)
        t.flat[:2] = 0, 999
        return self.normal(f"{name} x0", *shape, 2), t, self.normal(f"{name} eps", *shape, 2)

    def reverse_inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """x_T and the noise of each reverse step."""
        shape = self.paths, 2
        return self.normal("x_T", *shape), self.normal("z", self.reverse_steps, *shape)

    def epoch_data(self) -> np.ndarray:
        """Points for one epoch, not a multiple of the batch size."""
        return self.normal("data", self.epoch_points, 2)


GOLDEN = {dtype: Case(dtype) for dtype in ("float32", "float64")}
SINUSOID_TIMES = (0, 1, 2, 10, 100, 500, 999)

"""The PyTorch reference, and what its tests share: they are skipped where torch is missing."""

import importlib

import pytest

torch = pytest.importorskip("torch")
ref = importlib.import_module("studies.pytorch_reference")

torch.set_num_threads(1)  # pytest-xdist already uses every core
f64 = torch.float64
SCHEDULES = [ref.linear_schedule, ref.sigmoid_schedule]


def assert_close(actual, expected, rtol=1e-12, atol=1e-12):
    """By default as close as two computations in float64, of up to some hundred roundings each."""
    expected = torch.as_tensor(expected, dtype=f64)
    torch.testing.assert_close(actual.to(f64), expected, rtol=rtol, atol=atol)


def normal(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=f64)


def column(table):
    return table[:, None]

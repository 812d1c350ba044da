"""The rule for what is left to us: its edges, and that it grows with the data."""

import warnings

import numpy as np
import pytest

from ddpm_jax.training import recipe


def test_a_drawing_keeps_the_tables_that_drawings_were_tuned_with():
    found = recipe.rule(50_468, 2, spacing=0.0039)
    assert (found.tables, found.width, found.base) == ((32, 64, 128, 256), 64, "none")
    assert (found.steps, found.hold_out, found.sigmoid_k) == (55_514, 0.1, 12.0)


@pytest.mark.parametrize(
    ("rows", "columns", "tables"),
    [
        (300, 2, (8, 16)),  # 16 x 16 nodes are at most 1.5 · 300, 32 x 32 are not
        (75, 4, ()),
        (500, 5, (8, 16)),
        (4000, 8, (8, 16, 32)),
        (2000, 150, ()),
        (5000, 1, (32, 64, 128, 256)),
        (2, 2, ()),
    ],
)
def test_tables_have_rows_for_their_nodes(rows, columns, tables):
    assert recipe.rule(rows, columns, 0.1).tables == tables


@pytest.mark.parametrize(
    ("rows", "spacing", "tables"),
    [
        (10_000, 0.0039, (8, 16, 32)),  # 2/0.039 = 51
        (10_000, 0.0064, (8, 16)),  # 2/0.064 = 31.25
        (10_000, 0.0008, (8, 16, 32, 64)),  # of clusters: 64 x 64 are at most 15,000
        (10_000, 0.0, (8, 16, 32, 64)),
        (1999, 0.1, (8, 16, 32)),  # few rows: cross-validation bounds what they learn
        (2000, 0.1, ()),
        (20_000, 0.1, (16, 32, 64, 128)),  # a drawing, which may be on a lattice
    ],
)
def test_nodes_in_the_plane_are_ten_times_as_far_apart_as_rows(rows, spacing, tables):
    assert recipe.rule(rows, 2, spacing).tables == tables


def test_least_noise_is_half_the_distance_of_neighbours():
    """e^(-k/2) = h/2, for h within what the schedule may take."""
    for spacing in (0.004, 0.008):
        k = recipe.rule(1000, 2, spacing).sigmoid_k
        # k is a whole number: e^(1/4) to either side.
        assert np.exp(-k / 2) == pytest.approx(spacing / 2, rel=np.expm1(0.25))
    assert recipe.rule(1000, 2, 0.5).sigmoid_k == 10
    assert recipe.rule(1000, 2, 1e-9).sigmoid_k == 14
    assert recipe.rule(1000, 2, 0.0).sigmoid_k == 10  # equal rows have no distance


def test_width_and_time_follow_the_columns_and_are_bounded():
    widths = [recipe.rule(2000, d, 0.1).width for d in (3, 30, 80, 150, 400, 10_000)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (128, 1024)
    assert all(w >= min(2 * d, 1024) for w, d in zip(widths[3:], (150, 400, 10_000), strict=True))
    assert recipe.rule(2000, 400, 0.1).steps == 1000


def test_steps_grow_with_the_rows_within_bounds():
    for columns, per_row in ((2, 1.1), (7, 4)):
        steps = [recipe.rule(rows, columns, 0.1).steps for rows in (2000, 15_000, 10**6)]
        assert steps == [10_000, int(per_row * 15_000), 80_000]


def test_few_rows_hold_nothing_out_and_lie_over_a_mixture():
    assert recipe.rule(1999, 3, 0.1).hold_out == 0
    assert recipe.rule(2000, 3, 0.1).hold_out == 0.1
    assert recipe.rule(1999, 3, 0.1).base == "mixture"
    assert recipe.rule(2000, 3, 0.1).base == "gaussian"


def test_nearest_is_the_median_distance_between_rows_that_differ():
    line = np.repeat(np.arange(10.0), 3)[:, None] * 0.7
    assert recipe.nearest(line) == pytest.approx(0.7)
    assert recipe.nearest(np.ones((5, 2))) == 0


def test_more_columns_than_rows_is_said():
    with pytest.warns(UserWarning, match="2 rows of 400 columns"):
        recipe.warn_of_shape(2, 400)
    with pytest.warns(UserWarning, match="600 columns"):
        recipe.warn_of_shape(1000, 600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe.warn_of_shape(1000, 30)

"""The search on losses that are known: a grid, beyond its ends, one parameter after another."""

from __future__ import annotations

import math

import pytest

from tta_bench.contract.space import Space
from tta_bench.tuning.axis import MOST_BEYOND, Axis
from tta_bench.tuning.sampled import sample
from tta_bench.tuning.search import Search


def bowl(*best):
    """A loss that is least where each value is as given, by the factor between them."""

    def loss(point):
        return sum(abs(math.log(float(v) / b)) for v, b in zip(point, best, strict=True))

    return loss


def searched(axes, loss, allowed=lambda point: True):
    asked = []

    def measure(points):
        asked.extend(points)
        return [loss(point) for point in points]

    search = Search(axes, measure, allowed)
    search.grid()
    search.refine()
    assert len(asked) == len(set(asked))
    return search


@pytest.mark.parametrize(
    ("best", "chosen", "last"),
    [(2e-3, "0.00111", "0.0037"), (1e-7, "1.23e-07", "4.09e-08"), (3e-5, "3e-5", "1e-4")],
)
def test_a_scale_goes_on_by_its_own_factor_until_the_best_lies_inside(best, chosen, last):
    search = searched([Axis("lr", ["1e-5", "3e-5", "1e-4"], float)], bowl(best))
    assert search.best == (chosen,)
    assert list(search.losses)[-1] == (last,)
    assert search.edges() == [None]


def test_a_scale_ends_at_the_bound_and_says_so():
    axis = Axis("steps", ["1", "2"], int)
    search = searched([axis], lambda point: -float(point[0]))
    assert search.best == (str(2 ** (1 + MOST_BEYOND)),)
    assert search.edges() == ["bound"]
    assert axis.values[: axis.given] == ["1", "2"]


@pytest.mark.parametrize(
    ("values", "kind", "loss", "allowed", "best"),
    [
        (["0.1", "0.3"], float, lambda p: -float(p[0]), lambda p: float(p[0]) < 1, "0.9"),
        (["0", "0.1", "0.2"], float, lambda p: float(p[0]), lambda p: True, "0"),
        (["1", "2"], int, lambda p: float(p[0]), lambda p: True, "1"),
    ],
)
def test_where_no_more_is_allowed_the_edge_says_so(values, kind, loss, allowed, best):
    search = searched([Axis("weight", values, kind)], loss, allowed)
    assert (search.best, search.edges()) == ((best,), ["allowed"])


def test_parameters_that_depend_on_each_other_settle_together():
    axes = [Axis("lr", ["1", "2"], float), Axis("weight", ["1", "2"], float)]
    search = searched(axes, lambda p: bowl(20.0, 0.3)(p) + abs(float(p[0]) * float(p[1]) - 6))
    best = search.best
    for place, axis in enumerate(axes):
        beside = axis.beside(best[place])
        assert len(beside) == 2
        for value in beside:
            other = (*best[:place], value, *best[place + 1 :])
            assert search.losses[other] > search.losses[best]
    assert search.edges() == [None, None]


def test_what_cannot_be_chosen_loses():
    axis = Axis("lr", ["1", "2", "4"], float)
    search = searched([axis], lambda p: None if float(p[0]) > 2 else -float(p[0]))
    assert (search.best, search.edges()) == (("2",), [None])
    none = searched([Axis("lr", ["1", "2"], float)], lambda p: None)
    assert (none.best, none.edges()) == (None, [None])


def test_of_equal_losses_the_first_is_chosen_and_the_search_ends():
    search = searched([Axis("lr", ["1", "2"], float)], lambda p: 0.0)
    assert search.best == ("1",)
    assert len(search.losses) == 3


def test_a_set_of_words_has_no_ends():
    axes = [Axis("subset", ["all", "mlp"], None), Axis("lr", ["1", "3"], float)]
    search = searched(axes, lambda p: bowl(9.0)(p[1:]) + (p[0] == "all"))
    assert (search.best, search.edges()) == (("mlp", "9"), [None, None])


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("dynamic-eval:lr=1e-5|1e-4", float),
        ("dynamic-eval:lr=0|1e-5|1e-4", float),
        ("dynamic-eval:lr=0|1e-4", None),
        ("dynamic-eval:subset=all|mlp", None),
        ("window:context=8|16", int),
        ("ngram+neural-cache:weight=0.1|0.2", float),
    ],
)
def test_a_scale_is_a_number_with_two_values_above_0(spec, kind):
    space = Space.of(spec)
    (name,) = space.sets
    assert Axis.of(space, name).kind is kind


def test_optuna_asks_for_the_same_points_again_and_the_scale_goes_on():
    def run():
        axes = [Axis(name, ["1", "10", "100"], float) for name in "abc"]
        axes.append(Axis("d", ["x", "y"], None))
        loss = lambda p: bowl(10.0, 100.0, 3000.0)(p[:3]) + (p[3] == "x")  # noqa: E731
        search = Search(
            axes, lambda points: [loss(p) for p in points], lambda p: p[:2] != ("1", "1")
        )
        sample(search, 12, seed=3)
        sampled = list(search.losses)
        search.refine()
        return sampled, search

    (first, search), (again, _) = run(), run()
    assert first == again
    assert 1 < len(first) <= 12
    assert search.best == ("10", "100", "1e+03", "y")
    assert all(point[:2] != ("1", "1") for point in search.losses)

"""The scaling figure shows what the curves hold."""

import numpy as np
import pytest

from planner.allocate.curves import Scaling
from planner.allocate.scaling import scaling
from planner.fit.fitted import FittedLaw
from planner.report.scaling import draw, plans
from planner.report.style import sheet


@pytest.fixture(scope="module")
def answer(fitted: FittedLaw) -> Scaling:
    return scaling(fitted, [2e12, 6e12, 2e13, 6e13], [5e4, 2e5, 6e5])


def test_curves_are_drawn_as_they_are(answer: Scaling) -> None:
    figure, axes = sheet(2)
    draw(axes, answer)
    figure.canvas.draw()
    dashed = [line for line in axes[0].lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    for curve, line in zip(answer.curves, dashed, strict=True):
        assert list(line.get_ydata()) == [item.plan.loss for item in curve.optima]
        assert list(line.get_xdata()) == answer.request["budgets"]
    solid = [line for line in axes[0].lines if line.get_linestyle() == "-"]
    for curve, line in zip(answer.curves, solid, strict=True):
        assert np.isfinite(line.get_ydata()).tolist() == [item.inside for item in curve.optima]
    assert {True, False} == {item.inside for curve in answer.curves for item in curve.optima}
    words = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert words == ["50k", "200k", "600k", "outside the runs"]
    assert "200k distinct" in axes[1].get_title()
    sizes = next(line for line in axes[1].lines if line.get_linestyle() == "--")
    assert list(sizes.get_ydata()) == [item.plan.params_non_embedding for item in answer.curves[1].optima]
    assert len([tick for tick in axes[0].get_xticks() if 2e12 <= tick <= 6e13]) >= 3


def test_none_of_a_kind_of_token_leaves_its_curve_out(fitted: FittedLaw) -> None:
    rich = scaling(fitted, [2e12, 4e12], [1e9])
    figure, axes = sheet(1)
    plans(axes[0], rich.curves[0], rich.request["budgets"])
    figure.canvas.draw()
    lines = [line for line in axes[0].lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    known = sum(any(getattr(item.plan, name) > 0 for item in rich.curves[0].optima) for name in ("params_non_embedding", "tokens_pt", "tokens_spec"))
    assert len(lines) == known

"""Specialist text a hundred-thousandth of the general text, and repeats of one number of passes: where units and flat ridges matter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.laws import LAWS, Points, Reference

LAW = LAWS["multiplicative-saturating"]
TRUTH = {"E": 1.6, "A": 0.6, "B": 1.3, "α": 0.35, "β": 0.12, "γ": 0.15, "d0": 0.3, "s0": 0.1, "R*": 8.0}
THETA = np.array([[TRUTH[parameter.name] for parameter in LAW.parameters]])
REFERENCE = Reference(1e7, 3e8)
FEWER = 3e4


def table(passes: tuple[float, ...], seed: int = 0) -> FitData:
    """Runs of the truth, trunks and zero-shot runs among them, with 0.3 % of noise."""
    random = np.random.default_rng(seed)
    rows = [(n, pt, 0.0, np.nan) for n in (1e6, 3e6, 1e7, 3e7) for pt in (6e7, 3e8, 1.5e9)]
    rows += [(n, pt, u * k, u) for n, pt, _, _ in rows for u in (2e6, 8e6, 3.2e7) for k in passes]
    n, pt, spec, unique = (np.array(column) for column in zip(*rows, strict=True))
    loss = LAW.log_loss(THETA, Points(REFERENCE, n, pt, spec, unique))[0] + 0.003 * random.normal(size=len(n))
    trunk = np.unique(np.stack([n, pt]), axis=1, return_inverse=True)[1].ravel()
    return FitData([str(k) for k in range(len(n))], {"non_embedding": n}, pt, spec, unique, loss, 6 * n * (pt + spec), trunk, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_scarce_specialist_text_is_fitted_as_any_other(tmp_path: Path) -> None:
    """The truth is the same law where all specialist tokens are fewer, with s0 smaller as they are: so must be what is chosen and forecast."""
    usual = table((1.0, 4.0, 16.0))
    scarce = replace(usual, tokens_spec=usual.tokens_spec / FEWER, unique_spec=usual.unique_spec / FEWER)
    assert usual.reference.special is None and scarce.reference.special is not None
    names = "additive-saturating,multiplicative-saturating,root-near-saturating,gap-saturating,transfer-saturating"
    found = [fit(data, names, resamples=40, largest=False) for data in (usual, scarce)]
    forecasts = [
        law.forecast(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec).loss for law, data in zip(found, (usual, scarce), strict=True)
    ]
    truth = LAW.log_loss(THETA, usual.points(REFERENCE))[0]
    for law, loss in zip(found, forecasts, strict=True):
        assert LAW in [member.law for member in law.members]
        assert np.abs(np.log(loss) - truth).mean() < 0.003
    found[1].save(tmp_path / "law.json", {})
    again = FittedLaw.load(tmp_path / "law.json")
    assert again.members[0].reference == scarce.reference
    np.testing.assert_allclose(again.forecast(scarce.params_by, scarce.tokens_pt, scarce.tokens_spec, scarce.unique_spec).loss, forecasts[1], rtol=1e-7)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_resamples_lie_all_along_a_flat_ridge() -> None:
    """With one number of passes R* and s0 make up for each other: what one pass does is not known, and the interval says so."""
    for seed in range(2):
        law = fit(table((16.0,), seed), LAW.name, resamples=100, largest=False)
        half = law.members[0].interval([parameter.name for parameter in LAW.parameters].index("R*"))
        assert half[0] < 2 and half[1] > 100
        n, pt, unique = (np.exp(np.random.default_rng(seed).uniform(*np.log(ends), 100)) for ends in ((1e6, 3e7), (1e8, 1e9), (2e6, 3e7)))
        for passes, least in ((1.0, 0.95), (4.0, 0.95), (16.0, 0.8)):
            truth = np.exp(LAW.log_loss(THETA, Points(REFERENCE, n, pt, passes * unique, unique))[0])
            found = law.forecast({"non_embedding": n}, pt, passes * unique, unique)
            assert ((found.low <= truth) & (truth <= found.high)).mean() >= least, (seed, passes)

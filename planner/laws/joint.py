"""Two-stage laws in which size and tokens act together, and the gap between the domains is closed by specialist text.

x = A·(N0/N + b·D0/D)^α + G·(1 + S/s0)^−α, D = D_pt + S + S0/1000, so that an untrained model's loss is finite. The first term is Kaplan's
(arXiv 2001.08361) over all tokens, general and specialist, with one exponent: too few tokens act like too small a model, so tokens help a
large model more than a small one. The second is what only specialist text teaches. *near* lets general text close the gap too, p0
general tokens as much as s0 specialist ones.

From x to the loss: *root*, L = √x, so that a gain counts for less where the loss is high; *ceiling*, L = x·L0/(x + L0), does the same
with a bound (form after arXiv 2605.09189) and a parameter more. *ceiling-two* has Kaplan's two exponents, A·((N0/N)^(α/β) + b·D0/D)^β.

*rote*: text learnt by heart sets a floor to the loss that hardly depends on the model: x becomes (x^q + P^q·O)^(1/q),
O = R^0.75·(U/S0)^−1.75, R = D_spec/U − 1 (this project's own: competing harm with its exponents fixed). The exponents of O are what two
recorded sweeps agree on; left free, runs with few passes do not determine them, and forecasts of many passes go wrong. Of runs of many
passes, put down in advance in four domains, the worst lay 9 to 22 % off, so `--law auto` no longer tries these laws.

*overfit*: the loss L becomes L·(1 + h), h = P·R^0.7·(U/S0)^−λ·(3/L)^k: the better a model would be on fresh text, by its size, its general
tokens or its specialist ones, the more it learns by heart (this project's own). Neither N nor D_pt enters but through L. It holds from a rise of
a per cent to one of half the loss, where *rote* is up to 25 % off. The exponent of R is what pairs of runs, with and without repeats, of two
domains agree on; that of U differs between domains (0.95 to 1.37 in three) and has a prior, since runs with few amounts of distinct text leave it
open. Where k·h > 1 + h a larger or longer trained model is forecast worse, as it was measured to be.

With these laws N is best counted with embeddings. All fall with U and, but for *overfit*, with N and D_pt everywhere; in D_spec they rise again
once harm begins. Small runs do not determine an irreducible loss, so most of these laws have none, and their forecasts far beyond the runs may be
too low; *floor* has one, L = E + x·(L0 − E)/(x + L0 − E), for runs that do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.laws.base import Law, Parameter, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log, softplus
from planner.laws.repetition import SATURATING, Repetition, seen

_PASSES, _DISTINCT = 0.75, 1.75
_OVERFIT_PASSES = 0.7
_NATS = 3.0
"""Loss at which P of *overfit* is stated [nats/token]."""
_LEAST = 1e-3
"""Added to the tokens, in units of S0."""


def _rote(p: Mapping[str, Any], x: Points, reducible: Any) -> Any:
    rest = log(reducible)
    harm = (log(p["P"]) - rest) * p["q"] + (x.log_repeats * _PASSES - x.log_unique * _DISTINCT)
    return exp(rest + x.has_repeats * softplus(harm) / p["q"])


ROTE = Repetition(
    "rote",
    (
        Parameter("P", 1e-4, 50.0, (0.3, 6.0), "nats/token", needs="passes"),
        Parameter("q", 1.0, 20.0, (3.0, 10.0), "exponent", needs="repeats"),
    ),
    seen,
    _rote,
    f"S = D_spec, and x becomes (x^q + P^q·R^{_PASSES:g}·(U/S0)^−{_DISTINCT:g})^(1/q), R = D_spec/U − 1",
)


def _overfit(p: Mapping[str, Any], x: Points, loss: Any) -> Any:
    log_rise = log(p["P"]) + x.log_repeats * _OVERFIT_PASSES - x.log_unique * p["λ"] - p["k"] * log(loss / _NATS)
    return loss * (1.0 + x.has_repeats * exp(log_rise))


OVERFIT = Repetition(
    "overfit",
    (
        Parameter("P", 1e-16, 10.0, (1e-4, 1e-2), "ratio", needs="passes"),
        Parameter("λ", 0.4, 3.0, (0.8, 1.4), "exponent", needs="repeats", prior=(1.1, 0.2)),
        Parameter("k", 0.0, 20.0, (2.0, 8.0), "exponent", logarithmic=False, needs="repeats"),
    ),
    seen,
    _overfit,
    f"S = D_spec, and the loss L becomes L·(1 + P·R^{_OVERFIT_PASSES:g}·(U/S0)^−λ·({_NATS:g}/L)^k), R = D_spec/U − 1",
    whole=True,
)


def _joint(repetition: Repetition, ceiling: bool, near: bool, two: bool = False, floor: bool = False) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        special = repetition.effective(p, x)
        tokens = x.pt + (special + _LEAST) * x.special
        small = exp(-x.log_n * (p["α"] / p["β"])) if two else exp(-x.log_n)
        joint = p["A"] * exp((p["β"] if two else p["α"]) * log(small + p["b"] / tokens))
        closing = 1.0 + special / p["s0"] + (x.pt / p["p0"] if near else 0.0)
        reached = joint + p["G"] * exp(-p["α"] * log(closing))
        if repetition.whole:
            return repetition.harm(p, x, concave(p, log(reached)))
        return concave(p, log(repetition.harm(p, x, reached)))

    def concave(p: Mapping[str, Any], log_x: Any) -> Any:
        if not ceiling:
            return exp(0.5 * log_x)
        least = p["E"] if floor else 0.0
        return exp(log_x - softplus(log_x - log(p["L0"] - least))) + least

    term = "((N0/N)^(α/β) + b·D0/D)^β" if two else "(N0/N + b·D0/D)^α"
    scale = 1.0 if ceiling else 3.0
    form = "E + x·(L0 − E)/(x + L0 − E)" if floor else "x·L0/(x + L0)" if ceiling else "√x"
    parameters = (
        ((replace(irreducible(), high=4.0, linear=False),) if floor else ())
        + (amplitude("A", linear=False), Parameter("b", 1e-4, 100.0, (0.05, 1.0), "ratio"), exponent("α"))
        + ((exponent("β"),) if two else ())
        + (Parameter("G", 1e-3, 200.0, (1.0 * scale, 8.0 * scale), "nats/token"), Parameter("s0", 1e-4, 10.0, (1e-3, 0.03), "ratio"))
        + ((Parameter("p0", 1e-2, 3e3, (1.0, 30.0), "ratio"),) if near else ())
        + ((Parameter("L0", 5.0, 60.0, (8.0, 16.0), "nats/token"),) if ceiling else ())
        + repetition.parameters
    )
    if not ceiling:
        parameters = tuple(replace(item, unit="(nats/token)²") if item.unit == "nats/token" else item for item in parameters)
    return Law(
        f"{'floor' if floor else 'ceiling' if ceiling else 'root'}{'-two' if two else ''}{'-near' if near else ''}-{repetition.name}",
        f"{form}, x = A·{term} + G·(1 + S/s0{' + D_pt/p0' if near else ''})^−α, D = D_pt + S + S0/1000, "
        f"s0 in units of S0{', p0 of D0' if near else ''}; {repetition.formula}",
        parameters,
        loss,
        "size and tokens after arXiv 2001.08361, the ceiling after 2605.09189; this project's own gap between the domains and harm of repetition",
        "models of very different size and training length"
        + (", and general text that also teaches the domain" if near else "")
        + ("; runs with many epochs over little text among them" if repetition.whole else ""),
        tied=not two,
    )


def _family(repetition: Repetition) -> tuple[Law, ...]:
    return (
        *(_joint(repetition, ceiling, near) for ceiling in (False, True) for near in (False, True)),
        _joint(repetition, True, False, two=True),
        *(_joint(repetition, True, near, floor=True) for near in (False, True)),
    )


LAWS = (
    *(replace(law, candidate=False) for law in _family(ROTE)),
    *_family(OVERFIT),
    *(_joint(SATURATING, ceiling, True) for ceiling in (False, True)),
)

"""The formula that people read is what is computed: its text, evaluated as it stands."""

import re
from typing import Any

import numpy as np
import pytest

from planner.fit.scale import Scale
from planner.laws import LAWS, Law, Points, Reference, joint

READ = [law for law in LAWS.values() if law.target == "spec" and "alike" not in law.formula]
"""Laws whose text is all formula."""
SIGNS = {"R*": "R_half", "·": "*", "^": "**", "−": "-", "√x": "x**0.5"}


def printed(law: Law, given: dict[str, Any]) -> Any:
    text = law.formula
    for sign, code in SIGNS.items():
        text = text.replace(sign, code)
    loss, *pieces = re.split(r"[,;] (?:and )?", text)
    values = {**given, "e": np.e, "ln": np.log}
    for piece in reversed(pieces):  # what a definition needs stands after it
        name, equals, rest = piece.partition(" = ")
        if equals:
            values[name] = eval(rest, values)
    for piece in pieces:
        what, becomes, rest = piece.partition(" becomes ")
        if becomes and what == "x":
            values["x"] = eval(rest, values)
        elif becomes and what == "the loss L":
            values["L"] = eval(loss, values)
            loss = rest
        elif becomes:
            values["x"] = eval(loss, values) - values["E"]
            loss = f"E + {rest}"
        elif piece.startswith("+ "):
            loss += piece
    return eval(loss, values)


@pytest.mark.parametrize("law", READ, ids=lambda law: str(law.name))
def test_the_printed_formula_gives_the_loss(law: Law) -> None:
    random = np.random.default_rng(0)
    at = Reference(2.0, 3.0, 0.05) if law in joint.LAWS else Reference(1.0, 1.0)  # others say their offsets as ratios
    params, spec = 10 ** random.uniform(-1, 1, (2, 60))
    pt = np.zeros(60) if law.repeats else np.where(random.random(60) < 0.2, 0, 10 ** random.uniform(-1, 1.5, 60))
    if law.stages == 1 and not law.repeats:
        pt, spec = 10 ** random.uniform(-1, 1.5, 60), np.zeros(60)
    unique = spec * np.where(random.random(60) < 0.3, 1, 10 ** random.uniform(-1.5, 0, 60))
    points = Points(at, params, pt, spec, unique)
    special = at.special or at.tokens
    for theta in Scale(law).draw(random, 20):
        p = {item.name.replace("R*", "R_half"): value for item, value in zip(law.parameters, theta, strict=True)}
        p |= {name: p[name] * unit for name, unit in (("s0", special), ("p0", at.tokens), ("d0", at.tokens)) if name in p}
        runs = {"N": params, "D_pt": pt, "D_spec": spec, "D": pt + spec, "U": unique, "N0": at.params, "D0": at.tokens, "S0": special}
        with np.errstate(invalid="ignore", divide="ignore"):
            found = printed(law, runs | p)
        np.testing.assert_allclose(np.log(found), law.log_loss(theta[None], points)[0], rtol=0, atol=1e-12)

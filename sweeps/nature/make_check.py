"""Write check/: a law fitted to the cheaper runs only, its recommendation at four times their compute, and a grid of splits of that budget.

    python sweeps/nature/make_check.py && plan sweep run sweeps/nature/check
    plan launch sweeps/nature/check/allocation.json --out sweeps/nature/check/launch
"""

from __future__ import annotations

from pathlib import Path

from planner.allocate.allocate import allocate
from planner.allocate.request import Request
from planner.artifacts import sha256_file
from planner.cli.fit import law_source
from planner.design.spec import read_sweep
from planner.fit.data import fit_data
from planner.fit.fit import fit
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.runs import read_runs, write_runs

LARGEST = 3.9e12
"""Most FLOPs of a run that the law is fitted to."""
FACTOR = 4.0
UNIQUE_SPEC = 200_000
SIZES = (0.3, 0.55, 1.0)
"""As fractions of the recommended size; much larger sizes would have fewer than 2 tokens per parameter."""
AMOUNTS = (0.4, 0.7, 1.4, 2.2)
"""As fractions of the recommended specialist tokens; the rest of the budget goes to general text."""

MOST = 0.9
"""Largest share of specialist tokens that is tried."""


def main() -> None:
    """Write the files."""
    folder = Path(__file__).parent
    check, recipe = folder / "check", read_sweep(folder).recipe
    runs = read_runs(folder / "runs.csv")
    cheap = runs[runs["flops"] <= LARGEST].reset_index(drop=True)
    write_runs(check / "cheap_runs.csv", cheap)
    law = fit(fit_data(cheap), resamples=400, source=law_source(folder / "runs.csv", runs, check / "law.json"))
    law.save(check / "law.json", {"runs": sha256_file(check / "cheap_runs.csv")})
    budget = FACTOR * float(cheap["flops"].max())
    answer = allocate(law, Request(budget, UNIQUE_SPEC))
    answer.save(check / "allocation.json", {"law": sha256_file(check / "law.json")})
    lines = [f"# Written by ../make_check.py: {budget:.4g} FLOPs a run, {FACTOR:g} times the largest that the law of check/ has seen.", ""]
    lines += ['name = "nature-check"', 'corpus = "../corpus"', 'domain = "nature"', f"unique_spec = [{UNIQUE_SPEC}]", ""]
    for share in SIZES:
        size = round(share * answer.plan.params_non_embedding)
        total = budget / flops_per_token(shape_for(size, family=recipe.family, vocab=int(runs["vocab_size"].iloc[0])), recipe.seq_len)
        for spec in (round(amount * answer.plan.tokens_spec) for amount in AMOUNTS):
            if spec > MOST * total:
                continue
            lines += ["[[grid]]", f"sizes = [{size}]", f"tokens_pt = [{round(total - spec)}]", f"tokens_spec = [{spec}]", ""]
    table = (folder / "sweep.toml").read_text(encoding="utf-8")
    lines.append(table[table.index("[recipe]") :].rstrip())
    (check / "sweep.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

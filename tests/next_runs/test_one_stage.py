"""Designs under laws of one stage, and for tables that name no recipe."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.request import Request
from planner.cli.design import show
from planner.cli.main import app
from planner.design.cells import Cell
from planner.errors import DataError
from planner.fit.data import FitData
from planner.fit.estimate import estimate
from planner.fit.fit import fit
from planner.laws import LAWS, Points, Reference
from planner.next_runs.belief import stages_of
from planner.next_runs.candidates import Candidates, Setting
from planner.next_runs.choose import naive_grid
from planner.next_runs.design import NextRuns, Stakes, Worth, affordable, design_runs
from planner.recipe import Recipe

LAW = LAWS["chinchilla"]
REFERENCE = Reference(1e8, 1e10)
TRUTH = np.array([1.7, 0.75, 0.65, 0.34, 0.28])
NOISE = 0.01
BUDGET, TARGET = 3e20, 1e23


def rows(params: np.ndarray, tokens: np.ndarray, random: np.random.Generator) -> FitData:
    points = Points(REFERENCE, params, tokens, 0.0, np.nan)
    loss = LAW.log_loss(TRUTH[None], points)[0] + NOISE * random.normal(size=len(params))
    nothing = np.zeros(len(params))
    names = [f"run{number}" for number in range(len(params))]
    return FitData(names, {"non_embedding": params}, tokens, nothing, nothing + np.nan, loss, 6 * params * tokens, np.arange(len(params)), None)


def old(random: np.random.Generator) -> FitData:
    params, ratio = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e7, 4e8, 4), [5.0, 10.0, 20.0, 40.0]))
    return rows(params, params * ratio, random)


def error(known: FitData, more: Candidates, random: np.random.Generator) -> float:
    """Forecast, after more runs, a run of the target budget; return the error of ln L."""
    new = rows(more.params_by["non_embedding"], more.tokens[0], random)
    params, tokens = (np.concatenate(pair) for pair in ((known.params, new.params), (known.tokens_pt, new.tokens_pt)))
    found = estimate(LAW, Points(REFERENCE, params, tokens, 0.0, np.nan), np.concatenate([known.log_loss, new.log_loss]), random, starts=4)
    target = Points(REFERENCE, np.array([1.3e10]), np.array([1.28e12]), 0.0, np.nan)
    return float((LAW.log_loss(found.theta[None], target) - LAW.log_loss(TRUTH[None], target))[0, 0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_the_runs_of_one_stage_tell_more_than_a_grid_for_the_same_flops() -> None:
    """Counted by fits to fresh runs, not by the theory that chose them."""
    random = np.random.default_rng(0)
    law = fit(old(random), "chinchilla", resamples=100, largest=False)
    setting = Setting(Recipe(), 1, np.inf, 1.0, special=False)
    given = affordable(setting, BUDGET, [LAW], True, unique_target=1.0)
    assert (given.tokens[1] == 0).all() and len(given) > 30
    stakes = Stakes.of(given, law, Request(TARGET, 1.0))
    chosen = given.subset([cell in design_runs(stakes, BUDGET, fitted=True).cells for cell in given.cells])
    grid = given.subset(naive_grid(given, BUDGET, stakes.information).chosen)
    assert chosen.cost.total(np.ones(len(chosen), dtype=bool)) <= BUDGET
    errors = np.array([[error(old(random), more, random) for more in (chosen, grid)] for _ in range(60)])
    designed, naive = np.sqrt((errors**2).mean(0))
    assert designed < 0.95 * naive


def table(path: Path, columns: str) -> Path:
    """Write a table without a recipe: of one stage, of one corpus and its repeats, or of two stages."""
    lines = [columns]
    random = np.random.default_rng(1)
    for n in np.geomspace(2e7, 1e9, 5):
        size = 400 / n**0.34
        for d in np.geomspace(5e8, 4e10, 4):
            if columns == "params_non_embedding,tokens_pt,loss_spec":
                cases = [(n, d, 1.7 + size + 410 / d**0.28)]
            elif "tokens_pt" not in columns:
                cases = [(n, d * p, d, 1.7 + size + 410 / (d * (1 + 6 * (1 - np.exp(-(p - 1) / 6)))) ** 0.28) for p in (1, 4, 12)]
            else:
                cases = [(n, d, s, min(s, 1e9), 1.7 + size + 410 / (0.1 * d + s) ** 0.28) for s in (1e8, 1e9, 1e10)]
            lines += [",".join(f"{value:.7g}" for value in (*case[:-1], case[-1] * np.exp(0.02 * random.normal()))) for case in cases]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "options", "shown", "not_shown"),
    [
        ("params_non_embedding,tokens_pt,loss_spec", "--law chinchilla", "1.28T general tokens", "distinct"),
        ("params_non_embedding,tokens_spec,unique_spec,loss_spec", "--law data-constrained", "distinct texts", "most general"),
        ("params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec", "--law transfer-saturating", "from scratch", "recipe is"),
    ],
)
def test_a_table_without_a_recipe_is_told_what_to_run(tmp_path: Path, columns: str, options: str, shown: str, not_shown: str) -> None:
    runs = table(tmp_path / "runs.csv", columns)
    invoke = CliRunner().invoke
    assert invoke(app, ["fit", str(runs), *options.split(), "--bootstrap", "40", "--no-figures"]).exit_code == 0
    asked = ["allocate", "--law", str(tmp_path), "--flops", "1e22", "--spec-tokens", "2B", "--next-runs", "3e19", "--out", str(tmp_path / "a.json")]
    result = invoke(app, asked)
    words = " ".join(result.stdout.split())
    assert result.exit_code == 0, result.stderr
    assert "names no recipe: the runs follow the default one" in " ".join(result.stderr.split())
    table_of_runs = words[words.index("Design: ") :]
    assert shown.replace("1.28T ", "") in table_of_runs and not_shown not in table_of_runs
    before, design = (float(words.split(f" {name} ")[1].split()[2]) for name in ("before", "this design"))
    assert design < before
    if "tokens_spec" not in columns:  # a law that knows no specialist text needs to be told of none
        result = invoke(app, ["sweep", "design", "--law", str(tmp_path), "--flops", "3e19", "--dry-run"])
        assert result.exit_code == 0, result.stderr
    designed = ["sweep", "design", "--law", str(tmp_path), "--flops", "3e19", "--out", str(tmp_path / "next.toml")]
    result = invoke(app, designed)
    assert result.exit_code == 2 and "--corpus FOLDER" in result.stderr and not (tmp_path / "next.toml").exists()


def test_a_regret_that_is_nothing_is_not_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    """All refits of a law with one exponent take the same plan but for the last digits."""
    before, design = (Worth(name, cells, 1e19 * cells, 0.6, 3e-9, 0.0) for name, cells in (("before", 0), ("this design", 1)))
    plan = {"params_non_embedding": 1e10, "tokens_pt": 1e11}
    show(NextRuns((Cell(1e8, 0, 1e9, 0.0, None),), 1e19, {1e8: 1e19}, before, design, None, plan, ()), 1e23, 1.0, special=False)
    written = capsys.readouterr().out
    assert written.count("under 0.001 %") == 2 and "3e-09" not in written


def test_stages_of_laws() -> None:
    assert [stages_of([LAWS[name]]) for name in ("chinchilla", "data-constrained", "gap-penalised")] == [(True, False), (False, True), (True, True)]
    with pytest.raises(DataError, match="chinchilla and gap-penalised are for runs with different stages"):
        stages_of([LAWS["chinchilla"], LAWS["gap-penalised"]])
    with pytest.raises(DataError, match="of the general loss"):
        stages_of([next(law for law in LAWS.values() if law.target == "general")])

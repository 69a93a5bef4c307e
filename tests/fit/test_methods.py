"""Laws of two methods from one table: whose rows belong to which, and where they cross."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.crossing import crossing
from planner.errors import DataError, InputError
from planner.fit.data import FitData, fit_data
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.ladder import shape_for
from planner.laws import Points
from planner.recipe import Recipe
from planner.runs import read_runs
from tests.conftest import LAW, REFERENCE, TRUTH

HEAD = "run_id,params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec,steps_pt,steps_spec,learning_rate,method"
SLOWER = {**TRUTH, "β": 0.15, "B": 0.37}
"""A method whose loss falls more slowly with specialist tokens: better where they are few, worse where they are many."""
PLACE = {"tokens_pt": 2e6, "unique_spec": 1.6e6, "least": 1e5, "most": 1.6e6}


def truth(parameters: dict[str, float], *place: object) -> np.ndarray:
    return LAW.log_loss(np.array([[parameters[parameter.name] for parameter in LAW.parameters]]), Points(REFERENCE, *place))[0]


def table(path: Path) -> Path:
    rows = []
    for number, size in enumerate((2e4, 4e4, 8e4)):
        rows.append(f"z{number},{size},1e6,0,,{5 - number / 10},1000,0,0.01,full")
        for spec, loss in ((3e5, 4.0), (6e5, 3.8)):
            rows.append(f"f{number}-{spec:g},{size},1e6,{spec},1e6,{loss - number / 10},1000,{spec / 1000},0.01,")
            rows.append(f"l{number}-{spec:g},{size},1e6,{spec},1e6,{loss + 0.5 - number / 10},1000,{spec / 1000},0.02,lora")
    path.write_text("\n".join([HEAD, *rows]))
    return path


def test_rows_without_a_specialist_stage_belong_to_the_methods_with_their_general_stage(tmp_path: Path) -> None:
    path = table(tmp_path / "runs.csv")
    full = path.read_text().splitlines()
    both = [line.replace(",lora", ",lora-both") for line in full if line.startswith(("z", "l"))]
    both = [line.replace(",full", ",lora-both") if line.startswith("z") else line for line in both]
    path.write_text("\n".join([*full, *(f"both-{line}" for line in both)]))
    frame = read_runs(path)
    for method, rows in (("full", {"z", "f"}), ("lora", {"z", "l"}), ("lora-both", {"both-z", "both-l"})):
        ids = fit_data(frame, method=method).run_ids
        assert len(ids) == 9 and {name.rstrip("0123456789+e-") if "both" not in name else name[:6] for name in ids} == rows
    one_stage = frame[frame["run_id"].str.startswith("z")]
    with pytest.raises(DataError, match="no run trained its general stage with method lora; the table has full; fit with --method full"):
        fit_data(one_stage, method="lora")
    alone = frame[frame["run_id"].str.startswith("both-z")]
    assert fit_data(alone, method="lora-both").count == 3
    with pytest.raises(DataError, match="no run trained its general stage with method full; the table has lora-both; fit with --method lora-both"):
        fit_data(alone)
    with pytest.raises(DataError, match="no run trained its specialist stage with method qlora-both"):
        fit_data(frame, method="qlora-both")


def test_a_fit_takes_the_rows_of_one_method(tmp_path: Path) -> None:
    frame = read_runs(table(tmp_path / "runs.csv"))
    assert not frame["flags"].any(), "a run of another method at another rate is no worse run of this one"
    for method, letter in (("full", "f"), ("lora", "l")):
        data = fit_data(frame, method=method)
        assert data.count == 9 and {name[0] for name in data.run_ids} == {"z", letter}
    assert fit_data(frame).run_ids == fit_data(frame, method="full").run_ids
    with pytest.raises(DataError, match="no run trained its specialist stage with method qlora; the table has full, lora"):
        fit_data(frame, method="qlora")
    with pytest.raises(DataError, match="fit with --method lora"):
        fit_data(frame[frame["method"] == "lora"])
    with pytest.raises(InputError, match="--method 'dora'"):
        fit_data(frame, method="dora")


@pytest.fixture(scope="module")
def other(synthetic: FitData) -> FittedLaw:
    """SLOWER, fitted to what it makes of the same cells."""
    cells = synthetic.params, synthetic.tokens_pt, synthetic.tokens_spec, synthetic.unique_spec
    change = truth(SLOWER, *cells) - truth(TRUTH, *cells)
    source = {"recipe": Recipe().to_dict(), "vocab_size": 1024, "corpus": "c", "method": "lora"}
    return fit(replace(synthetic, log_loss=synthetic.log_loss + change), "bounded-penalised", resamples=60, source=source)


@pytest.mark.slow
def test_the_laws_cross_where_the_truths_do(fitted: FittedLaw, other: FittedLaw) -> None:
    first = replace(fitted, source={**fitted.source, "corpus": "c"})
    shape = shape_for(8e4, family="qwen3", vocab=1024)
    found = crossing(first, other, shape, **PLACE)
    ones = np.ones(len(found.tokens))
    place = shape.params_non_embedding * ones, 2e6 * ones, found.tokens, 1.6e6 * ones
    meet = float(found.tokens[np.argmin(np.abs(truth(SLOWER, *place) - truth(TRUTH, *place)))])
    assert 4e5 < meet < 8e5 and found.names == ("full", "lora") and found.crossing == pytest.approx(meet, rel=0.25)
    assert found.low is not None and found.high is not None and found.low < meet < found.high and found.crossed > 0.9
    assert found.better[0] > 0.9 > 0.1 > found.better[-1]
    equal = crossing(first, other, shape, **PLACE, equal_flops=True)
    saved = equal.tokens_other / equal.tokens
    recipe = Recipe()
    ways = [recipe.method(name).flops_per_token(shape, recipe.seq_len) for name in ("full", "lora")]
    assert np.allclose(saved, ways[0] / ways[1])


def test_at_equal_flops_both_stages_count(fitted: FittedLaw, other: FittedLaw) -> None:
    first = replace(fitted, source={**fitted.source, "corpus": "c"})
    both = replace(other, source={**other.source, "method": "lora-both"})
    shape, recipe = shape_for(5e6, family="qwen3", vocab=1024), Recipe()
    found = crossing(first, both, shape, **PLACE, equal_flops=True)
    full, adapted = (recipe.method(name).flops_per_token(shape, recipe.seq_len) for name in ("full", "lora-both"))
    assert adapted < full and np.allclose(full * (2e6 + found.tokens), adapted * (2e6 + found.tokens_other))
    with pytest.raises(DataError, match="2e.06 general tokens cost more with full than both stages with lora-both"):
        crossing(both, first, shape, **PLACE, equal_flops=True)


def test_laws_that_cannot_be_compared_are_refused(fitted: FittedLaw, other: FittedLaw) -> None:
    shape = shape_for(8e4, family="qwen3", vocab=1024)
    with pytest.raises(DataError, match="differ in corpus"):
        crossing(fitted, other, shape, **PLACE)
    with pytest.raises(InputError, match="both laws are of method full"):
        crossing(fitted, fitted, shape, **PLACE)

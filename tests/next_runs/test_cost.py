"""The cost of a set of cells, kept as sums of maxima, is that of the tree that trains them."""

import numpy as np
import pytest

from planner.design.tree import build_tree
from planner.next_runs.candidates import Candidates, candidates
from tests.next_runs.shared import SETTING


@pytest.fixture(scope="module")
def given() -> Candidates:
    return candidates(SETTING, 3e13, unique_target=2e5)


@pytest.mark.parametrize("seed", range(6))
def test_any_set_costs_what_its_tree_costs(given: Candidates, seed: int) -> None:
    random = np.random.default_rng(seed)
    chosen = random.random(len(given)) < random.choice([0.01, 0.05, 0.4])
    chosen[random.integers(len(given))] = True
    tree = build_tree(given.subset(chosen).cells, SETTING.recipe, SETTING.vocab, eval_tokens=SETTING.eval_tokens)
    assert given.cost.total(chosen) == pytest.approx(tree.flops_total, rel=1e-12)
    assert given.cost.alone[chosen].sum() == pytest.approx(tree.flops_cell_by_cell, rel=1e-12)


def test_marginal_costs_add_up_in_any_order(given: Candidates) -> None:
    random = np.random.default_rng(0)
    order, chosen, spent = random.permutation(len(given))[:40], np.zeros(len(given), dtype=bool), 0.0
    for number in order:
        spent += given.cost.marginal(chosen)[number]
        chosen[number] = True
        assert spent == pytest.approx(given.cost.total(chosen), rel=1e-12)
    # Shared trunks make the whole cheaper than its parts.
    assert spent < 0.9 * given.cost.alone[chosen].sum()


def test_candidates_follow_the_rules_of_a_sweep_and_have_both_ends(given: Candidates) -> None:
    general, special, unique = given.tokens
    assert (general == 0).any() and (special == 0).any()
    assert ((general + special) >= SETTING.least_tokens).all()
    assert ((general + special) >= 2 * given.params_by["non_embedding"]).all()
    assert np.nanmax(special / unique) <= SETTING.max_epochs * 1.001
    assert given.cost.alone.max() <= 0.26 * 3e13
    assert 2e5 in unique

"""The recipes of examples/recipes read as they stand, and say what their papers did."""

from pathlib import Path

import pytest

from planner.corpus.config import read_settings
from planner.design.spec import SweepSpec, read_sweep

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
SWEEPS = sorted(path.parent for path in RECIPES.rglob("sweep.toml"))


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda path: path.name)
def test_each_reads_and_its_corpus_has_its_domain(folder: Path) -> None:
    sweep, corpus = read_sweep(folder), read_settings(folder)
    assert sweep.domain in corpus.specialists and sweep.corpus == (folder / "corpus").resolve()
    if sweep.bases:
        assert corpus.tokenizer.path is not None, "the tokenizer is the base's"
        assert (folder / corpus.tokenizer.path).resolve().parent == (RECIPES / "bases" / "checkpoints").resolve()
    if any(source.kind == "pairs" for source in corpus.sources):
        from planner.corpus.chat import ChatTemplate

        rendered = ChatTemplate.of(corpus.chat_template, None).render([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
        assert rendered.text == "Question: Why?\nAnswer: So.\n" and rendered.text[slice(*rendered.spans[0])] == " So.\n"


def named(name: str) -> SweepSpec:
    return read_sweep(RECIPES / name)


def test_their_stages_are_those_of_the_papers() -> None:
    assert len(named("llamat").bases) == 2 and named("llamat").grids[0].replay_fractions == (0.03,) and named("llamat").grids[0].methods == ("full",)
    assert named("astrollama").grids[0].methods == ("qlora",) and named("astrollama").grids[0].tokens_pt == (0,)
    kale = named("kale_lm_chem")
    assert len(kale.bases) == 3 and {0} < set(kale.grids[0].tokens_pt) and len(kale.grids[0].tokens_spec) > 1
    assert {grid.methods for grid in kale.grids} == {("lora-both",)} and kale.recipe.special_lr_multiplier == 10

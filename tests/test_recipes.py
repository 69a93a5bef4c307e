"""The recipes of examples/recipes read as they stand, and say what their papers did."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planner.corpus.config import read_settings
from planner.corpus.store import Corpus
from planner.design.spec import SweepSpec, read_sweep
from planner.sweep import Sweep
from tests.train.shared import lay_out

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


def test_a_file_that_was_changed_wrongly_is_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(RECIPES, tmp_path / "recipes", ignore=shutil.ignore_patterns("corpus", "checkpoints", "state")))
    with (folder / "astrollama" / "sweep.toml").open("a") as file:
        file.write("seq_len = 512\nseq_len = 512\n")
    done = subprocess.run([sys.executable, str(folder / "run.py"), "astrollama"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "is not TOML" in done.stderr and done.stderr.count("\n") == 1


def test_checkpoints_of_runs_that_were_planned_before_are_left_alone(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("recipes_run", RECIPES / "run.py")
    assert spec is not None and spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    monkeypatch.setattr(run, "plan", lambda *arguments: None)
    folder = lay_out(tmp_path / "sweep", corpus, 'name = "x"\n[[cell]]\nsize = "10k"\ntokens_pt = "26k"\ntokens_spec = 0')
    (tip,) = Sweep.open(folder).tree.tips
    for name in (tip.segment_id, "n999-s0-pt0-u1-sp9-end"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    assert run.sweep(folder) == [folder / "checkpoints" / tip.segment_id]

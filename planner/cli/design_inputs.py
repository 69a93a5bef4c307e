"""The inputs of `plan sweep design`: its options, and the sweep, law, corpus and recipe that they mean."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.console import say
from planner.cli.decision import Decision
from planner.errors import DataError, InputError
from planner.units import format_count

if TYPE_CHECKING:
    from planner.design.spec import SweepSpec
    from planner.fit.fitted import FittedLaw
    from planner.laws.base import Law
    from planner.next_runs.candidates import Setting

EPOCHS = 16.0
"""Most epochs, where neither the sweep nor a law states them."""
BARE = 1
"""Vocabulary assumed for a table without a recipe: its N excludes embedding and output, and so do costs."""


@dataclass(frozen=True)
class Asked:
    """What is asked for; fields without a text of their own are options of `plan sweep design`."""

    share: float
    """Share of a run's variance that its trunk's runs have in common."""
    name: str | None = None
    """The sweep."""
    flops: str | None = None
    question: Decision | None = None
    """The decision that the runs are for; its limits bind the plan only: runs may have more epochs."""
    law: Path | None = None
    prior: bool = False
    form: Sequence[str] = ()
    target_flops: str | None = None
    spec_tokens: str | None = None
    criterion: str = "V"
    axes: Mapping[str, str | None] = field(default_factory=dict)
    """Sizes and tokens to choose from, by their names in `affordable`."""
    max_epochs: float | None = None
    corpus: Path | None = None
    seed: int | None = None
    check: bool = False
    out: Path = Path("next/sweep.toml")
    dry_run: bool = False
    as_json: bool = False
    whatever: bool = False
    """Whether to propose runs even if they would not change the decision."""


@dataclass(frozen=True)
class Given:
    """What runs are designed from."""

    sweep: SweepSpec | None
    law_path: Path | None
    fitted: FittedLaw | None
    """Law beside whose runs the new ones are chosen; None with --prior."""
    laws: Sequence[Law]
    """Those of the fit, or of --form."""
    setting: Setting
    """What the runs have in common."""
    corpus: Path | None
    """Folder of the corpus, where one is known."""
    domain: str | None


def gather(asked: Asked) -> Given:
    """Read the sweep, the law and the corpus that the options mean.

    Raises:
        InputError: one is missing, or runs cannot be designed from it.
        DataError: the sweep's recipe differs from the law's.
    """
    from planner.cli.paths import sweep_folder
    from planner.design.spec import read_sweep
    from planner.fit.fitted import FittedLaw
    from planner.laws import law_named
    from planner.next_runs.belief import FORMS, stages_of

    sweep = read_sweep(sweep_folder(asked.name)) if asked.name else None
    if sweep is not None and sweep.bases:
        raise InputError(f"sweep {sweep.name} starts from checkpoints, which a design cannot choose", remedy="list its cells in sweep.toml")
    where = None if asked.prior else _law_path(asked, sweep)
    fitted = FittedLaw.load(where) if where else None
    laws = [member.law for member in fitted.members] if fitted else [law_named(item) for item in asked.form or FORMS]
    setting, folder, domain = _setting(sweep, fitted, where, asked.corpus, asked.max_epochs, asked.seed, stages_of(laws))
    if folder is None and not (asked.dry_run or asked.check):
        raise InputError("the corpus that the runs train on is not known", remedy="name a sweep, give --corpus FOLDER, or only look with --dry-run")
    return Given(sweep, where, fitted, laws, setting, folder, domain)


def _law_path(asked: Asked, sweep: SweepSpec | None) -> Path:
    """Return the law's file: that of the question or of --law, the sweep's own, or the default.

    Raises:
        InputError: see `law_file`.
    """
    from planner.cli.paths import law_file

    law = asked.question.law if asked.question else asked.law
    beside = sweep.folder / "law.json" if sweep else None
    try:
        return law_file(beside if law is None and beside is not None and beside.is_file() else law)
    except InputError as error:
        if law is not None:
            raise
        raise InputError(error.message, remedy=f"{error.remedy}, or --prior where nothing is fitted yet") from error


def _last_seed(sweep: SweepSpec | None, source: Mapping[str, Any], where: Path | None) -> int:
    """Return the largest seed in use: by the law's runs, by its sweep, or by the sweep that is named."""
    from planner.design.spec import read_sweep

    if sweep is None and where is not None and "last_seed" not in source and source.get("recipe") and (where.parent / "sweep.toml").is_file():
        sweep = read_sweep(where.parent)  # a law of an earlier version
    stated = [*(cell.seed for cell in sweep.listed), *(number for grid in sweep.grids for number in grid.seeds)] if sweep else []
    return max(0, int(source.get("last_seed", 0)), *stated)


def _setting(
    sweep: SweepSpec | None, law: FittedLaw | None, where: Path | None, corpus: Path | None, max_epochs: float | None, seed: int | None,
    stages: tuple[bool, bool],
) -> tuple[Setting, Path | None, str | None]:  # fmt: skip
    """Collect recipe, corpus and limits from a sweep, a law and the options; return them with the corpus folder, if known, and the domain.

    Raises:
        InputError: the recipe is not known, or the law is of runs from open checkpoints or with adapters.
        DataError: the sweep's recipe differs from the law's.
    """
    from planner.corpus import Corpus
    from planner.design.spec import SweepSpec
    from planner.next_runs.candidates import Setting
    from planner.recipe import Recipe

    source: dict[str, Any] = law.source if law else {}
    if source.get("based"):
        raise InputError(f"the law {where} is of runs from checkpoints, which a design cannot choose", remedy="list their cells in sweep.toml")
    if source.get("method", "full") != "full":
        what = f"the law {where} is of runs with {source['method']}, and a design covers full training only"
        raise InputError(what, remedy="list their cells in sweep.toml")
    if sweep is None and law is None:
        raise InputError("neither a sweep nor a law is given, so the recipe is not known", remedy="name a sweep with its sweep.toml")
    recipe = sweep.recipe if sweep else Recipe.from_mapping(source.get("recipe") or {})
    if sweep is None and not source.get("recipe"):
        say("the law's table names no recipe: the runs follow the default one, with shared trunks; its batch and warm-up set their least length")
    if source.get("recipe") and Recipe.from_mapping(source["recipe"]).fingerprint != recipe.fingerprint:
        what = f"the sweep's recipe is not that of the law {where}, and runs of two recipes are never fitted together"
        raise DataError(what, remedy="use one recipe, or --prior")
    folder = corpus or (sweep.corpus if sweep else None)
    if folder is None and where is not None and source.get("corpus_path"):
        folder = Path(os.path.normpath(where.resolve().parent / source["corpus_path"]))
    domain = sweep.domain if sweep else source.get("domain")
    if folder is not None and ((folder / "corpus.json").is_file() or law is None):
        opened = Corpus.open(folder)
        domain = opened.specialist(domain)
        vocab, unique = opened.vocab_size, float(opened.unique_tokens(domain))
    else:
        assert law is not None  # a sweep has a corpus
        vocab, unique = int(source.get("vocab_size") or BARE), law.support.high["unique_spec"]
        known = f"its {format_count(unique)} distinct specialist tokens" if stages[1] else ""
        if folder is not None:
            say(f"{folder} holds no corpus: using the law's vocabulary{f' and {known}' if known else ''}")
        elif known:
            say(f"no corpus is named: assuming the text of the law's runs, {known}")
    epochs = sweep.max_epochs if sweep and math.isfinite(sweep.max_epochs) else law.support.high["epochs_spec"] if law else EPOCHS
    if max_epochs is not None:
        epochs = max_epochs
        if not (math.isfinite(epochs) and epochs >= 1):
            raise InputError(f"--max-epochs {epochs:g} is not a number of at least 1", remedy="give one such as 16")
    chosen = seed if seed is not None else _last_seed(sweep, source, where) + 1 if law else 0
    eval_tokens = sweep.eval_tokens if sweep else int(source.get("eval_tokens", SweepSpec.eval_tokens))
    return Setting(recipe, vocab, unique, max(1.0, epochs), eval_tokens, chosen, *stages), folder, domain

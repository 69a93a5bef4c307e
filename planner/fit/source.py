"""Where the runs of a law are from, as its file keeps it for later stages."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.artifacts import read_json, sha256_file, whole
from planner.design.spec import read_sweep
from planner.errors import DataError, StateError
from planner.fit.data import FitData
from planner.flags import flagged

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_SEED = 2**31
"""Seeds from here on are no sweep's of ours, but an identifier or a time in a foreign table."""


def source_of(
    runs: Path, frame: DataFrame, data: FitData, place: Path, *, method: str = "full", keep: Sequence[str] = (), further: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """Describe where runs are from, so that plans by the law can be launched with the sweep's own recipe.

    Args:
        runs: the runs table.
        frame: what it and the further ones hold.
        data: the rows of the fit.
        place: where the law will be written; the corpus is kept relative to it.
        method: how the runs were trained.
        keep: flags that did not keep a row out.
        further: tables whose runs are fitted together with those of the first.

    Raises:
        StateError: the sweep beside the table has another recipe.
    """
    return {
        **(_sweep(runs, frame, place) if (runs.parent / "sweep.toml").is_file() and runs.name == "runs.csv" else {}),
        **_bytes_per_token(frame),
        "replay_fractions": [] if data.replay_fraction is None else sorted({round(float(share), 6) for share in data.replay_fraction}),
        "runs": _from(place, runs),
        **({"with": [_from(place, table) for table in further]} if further else {}),
        **_last_seed(frame),
        "flagged": flagged(frame),
        "kept_flags": list(keep),
        **({"method": method} if method != "full" else {}),
        **({"guessed_trunks": True} if data.guessed_trunks else {}),
    }


def _from(place: Path, table: Path) -> str:
    """Return the path of a table from the folder that a law will be written to."""
    return os.path.relpath(table.resolve(), place.resolve().parent)


def tables_of(law: Path, source: Mapping[str, Any]) -> list[Path]:
    """Return the paths of the runs tables that a law was fitted to, as its file states them; the tables may be gone."""
    names = [source.get("runs", "runs.csv"), *source.get("with", ())]
    return [Path(os.path.relpath(law.resolve().parent / str(name))) for name in names]


def one_domain(tables: Sequence[Path]) -> None:
    """Refuse tables of several specialist domains, judged by the sweep or launch beside each: the corpus's fingerprint is the same for all its domains.

    Raises:
        DataError: they are.
    """
    known = [(table, domain) for table in tables if (domain := _domain_of(table)) is not None]
    for table, domain in known[1:]:
        if domain != known[0][1]:
            what = f"{known[0][0]} has runs of the domain {known[0][1]!r}, and {table} of {domain!r}"
            raise DataError(what, remedy="fit each domain's runs separately")


def _domain_of(table: Path) -> str | None:
    """Return the domain of a table's runs, None where nothing beside it says."""
    folder = table.parent
    if (folder / "sweep.toml").is_file():
        return read_sweep(folder).domain
    for launch in (folder, folder.parent):
        plan = launch / "allocation.json"
        if (launch / "launch.json").is_file() and plan.is_file():
            with whole(plan):
                body = read_json(plan)
                if launch == folder:
                    return body["source"].get("domain")
                return {name: source.get("domain") or name for source in body["sources"].values() for name in source["domains"]}.get(folder.name)
    return None


def _last_seed(frame: DataFrame) -> dict[str, int]:
    """Return the largest seed of the runs, so that further runs take others; nothing where no seed below `MOST_SEED` is stated."""
    seeds = frame["seed"][(frame["seed"] >= 0) & (frame["seed"] < MOST_SEED)]
    return {"last_seed": int(seeds.max())} if len(seeds) else {}


def digests(runs: Path, further: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each runs table, by the names that an artefact has for them."""
    return {"runs" if number == 1 else f"runs_{number}": sha256_file(table) for number, table in enumerate((runs, *further), 1)}


def _sweep(runs: Path, frame: DataFrame, place: Path) -> dict[str, Any]:
    """Describe the sweep beside a table."""
    spec = read_sweep(runs.parent)
    recipes = set(frame["recipe"].dropna())
    if recipes != {spec.recipe.fingerprint}:
        raise StateError(
            f"{runs} was made with recipe {', '.join(sorted(recipes))}, and sweep.toml beside it states {spec.recipe.fingerprint}",
            remedy="restore sweep.toml's [recipe], or run the sweep again",
        )
    vocabularies = frame["vocab_size"].dropna().unique()
    return {
        "sweep": spec.name,
        "recipe": spec.recipe.to_dict(),
        "vocab_size": int(vocabularies[0]) if len(vocabularies) == 1 else None,
        "corpus": str(frame["corpus"].iloc[0]),
        "corpus_path": os.path.relpath(spec.corpus, place.resolve().parent),
        "domain": spec.domain,
        "eval_tokens": spec.eval_tokens,
        **({"based": True} if spec.bases else {}),
    }


def _bytes_per_token(frame: DataFrame) -> dict[str, float]:
    """Return the bytes per token of the held-out specialist text, which turn a loss into bits per byte; nothing where tables differ or do not say."""
    ratios = (frame["loss_spec"] / (frame["bpb_spec"] * math.log(2))).dropna()
    return {"bytes_per_token": float(ratios.median())} if len(ratios) and ratios.max() < 1.01 * ratios.min() else {}

"""Lay out the runs of a plan for many domains: one trunk with a branch for each, a model for each, or one model of the whole mix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.allocate.domains.answer import DomainPlan, DomainsAllocation, Structure
from planner.allocate.domains.found import MIXED, SPLIT
from planner.artifacts import read_artifact, sha256_file, write_artifact, write_bytes
from planner.corpus import Corpus
from planner.design.cells import Cell, Part
from planner.design.segment import Segment
from planner.design.spec import SweepSpec
from planner.design.tree import Tree, build_tree
from planner.errors import DataError, InputError, StateError
from planner.launch.launch import COPY, is_of_a_start, start_after
from planner.launch.start import corpus_of, warn_of_cut_warmups, warn_of_scarce_text
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.sweep import Sweep, single_run
from planner.units import format_count

KIND = "domains_launch"
VERSION = 1
MIX, COOLED, TRUNK = "mix", "cooled-trunk", "trunk"
"""Folders of the one run of a mixed model, of the trunk's cooldown for all domains without a stage of their own, and of the trunk that runs share."""

RESERVED = (MIX, COOLED, TRUNK, "", ".", "..", "launch.json", "allocation.json", "verification.json", "submit.sh", "runner.lock", "stop")
"""Names that no domain's folder may have."""
LONGEST_NAME = 200
"""Bytes of a domain's name, at most: file systems allow 255, and temporary names are longer."""


@dataclass(frozen=True)
class DomainsLaunch:
    """A plan for many domains, ready to run."""

    answer: DomainsAllocation
    path: Path
    """Of the answer."""
    folder: Path
    structure: Structure
    runs: dict[str, Sweep]
    """By domain, each with one endpoint; a mixed model has just one, named MIX, and domains without a stage share one, named COOLED."""

    def run_of(self, domain: str) -> Sweep:
        """Return the run whose end is a domain's model."""
        return self.runs[next(name for name in (domain, MIX, COOLED) if name in self.runs)]

    def segments(self) -> Iterator[tuple[str, Sweep, Segment]]:
        """List what is trained: runs in order, a trunk that they share once."""
        seen: set[Path] = set()
        for name, run in self.runs.items():
            for segment in run.tree.segments:
                path = run.state_path(segment)
                if path not in seen:
                    seen.add(path)
                    yield name, run, segment

    def realised(self) -> list[tuple[str, float, float]]:
        """List quantity, planned and realised value."""
        found = []
        for plan in self.structure.domains:
            tip, per_step = self.run_of(plan.name).tree.tips[0], self.run_of(plan.name).spec.recipe.tokens_per_step
            found.append((f"{plan.name}: params_non_embedding", plan.params_non_embedding, float(tip.shape.params_non_embedding)))
            if MIX not in self.runs:
                trunk, stage = tip.steps_by_stage
                found.append((f"{plan.name}: tokens_pt", plan.tokens_trunk, float(trunk * per_step)))
                found.append((f"{plan.name}: tokens_spec", plan.tokens_spec, (1 - plan.replay_fraction) * stage * per_step))
        found.append(("flops", self.structure.flops or 0.0, sum(run.tree.flops(segment) for _, run, segment in self.segments())))
        return found


def prepare_domains(path: Path, folder: Path, *, structure: str | None = None, corpus: Path | None = None, seed: int = 0) -> DomainsLaunch:
    """Read an answer for many domains and lay its runs out.

    Args:
        path: what `plan allocate --domains` wrote.
        folder: where the runs go.
        structure: name of the structure to carry out, or a part of it; the recommended one by default.
        corpus: corpus folder, if it has moved since the sweeps.
        seed: seed of initialisation and data order.

    Raises:
        InputError: no such structure, a law without a recipe, or a corpus that is missing, not the sweeps', or too short to measure held-out losses.
        DataError: the corpus has too few distinct specialist tokens.
    """
    answer = DomainsAllocation.load(path)
    chosen = _structure(answer, structure)
    for plan in chosen.domains:
        if Path(plan.name).name != plan.name or plan.name.casefold() in RESERVED or len(plan.name.encode()) > LONGEST_NAME:
            raise InputError(f"the domain name {plan.name!r} cannot name a folder", remedy="rename it in the file of domains and allocate again")
    of = {name: source for source in answer.sources.values() for name in source["domains"]}
    if chosen.name in (SPLIT, MIXED):
        for key in ("recipe", "corpus"):
            if len({repr(source.get(key)) for source in of.values()}) > 1:
                raise InputError(
                    f"{chosen.name} trains all domains on one trunk, but their laws differ in {key}",
                    remedy="sweep the domains on one corpus with one recipe (see trunks in sweeps/README.md), or --structure independent",
                )
    folders = {name: corpus_of(path, source, corpus) for name, source in of.items()}
    runs = _runs(chosen, of, folders, folder, seed)
    for run in runs.values():
        run.corpus.check_heldout(run.domains, run.spec.recipe.seq_len)
    warn_of_cut_warmups(run.tree for run in runs.values())
    warn_of_scarce_text(runs.values())
    return DomainsLaunch(answer, path, folder, chosen, runs)


def _structure(answer: DomainsAllocation, name: str | None) -> Structure:
    if name is None:
        return answer.recommended
    found = [item for item in answer.structures if name in item.name]
    if len(found) != 1 or found[0].loss is None:
        names = ", ".join(item.name for item in answer.structures if item.loss is not None)
        raise InputError(f"--structure {name!r} matches no single structure of the answer that has a plan", remedy=f"choose one of {names}")
    return found[0]


def _spec(source: dict[str, Any], corpus: Corpus, domain: str, folder: Path) -> SweepSpec:
    recipe, tokens = Recipe.from_mapping(source["recipe"]), int(source.get("eval_tokens") or SweepSpec.eval_tokens)
    return SweepSpec(folder.name, folder, corpus.folder.resolve(), domain, (), recipe, eval_tokens=tokens)


def _domain(plan: DomainPlan, source: dict[str, Any], corpus: Corpus) -> str:
    """Return the corpus's own name of a plan's domain, after checking that it has enough text."""
    domain = corpus.specialist(source.get("domain") or plan.name)
    available = corpus.unique_tokens(domain)
    if plan.tokens_spec > 0 and plan.unique_spec > available:
        raise DataError(
            f"the plan counts on {format_count(plan.unique_spec)} distinct tokens of {plan.name}; corpus {corpus.folder} has {format_count(available)}",
            remedy="lower its unique_tokens and allocate again, or build a larger corpus",
        )
    return domain


def _runs(chosen: Structure, of: dict[str, dict[str, Any]], folders: dict[str, Corpus], folder: Path, seed: int) -> dict[str, Sweep]:
    """Lay out the runs of a structure, by domain, or by MIX and COOLED."""
    if chosen.name == MIXED:
        return {MIX: _mixed(chosen, of, folders, folder / MIX, seed)}
    trunks = folder / TRUNK if chosen.name == SPLIT else None
    # Domains without a stage of their own share one cooldown of the trunk, and that model is evaluated on each.
    bare = [plan for plan in chosen.domains if chosen.name == SPLIT and plan.tokens_spec == 0]
    runs = {
        plan.name: _run(plan, of[plan.name], folders[plan.name], folder / plan.name, trunks, seed, bool(bare))
        for plan in chosen.domains
        if len(bare) < 2 or plan.tokens_spec > 0
    }
    if len(bare) > 1:
        names = [_domain(plan, of[plan.name], folders[plan.name]) for plan in bare]
        parts = tuple(Part(name, 1 / len(bare), plan.unique_spec) for name, plan in zip(names, bare, strict=True))
        runs[COOLED] = _run(bare[0], of[bare[0].name], folders[bare[0].name], folder / COOLED, trunks, seed, True, parts)
    return runs


def _run(
    plan: DomainPlan, source: dict[str, Any], corpus: Corpus, folder: Path, trunks: Path | None, seed: int, cooled: bool, parts: tuple[Part, ...] = ()
) -> Sweep:
    domain = _domain(plan, source, corpus)
    spec = replace(_spec(source, corpus, domain, folder), trunks=trunks, mixture=parts)
    special = plan.tokens_spec > 0
    replay = plan.replay_fraction if special else 0.0
    method = (source.get("method") or "full") if special else "full"
    unique = plan.unique_spec if special else None
    cell = Cell(plan.params_non_embedding, seed, plan.tokens_trunk, plan.tokens_spec, unique, replay, method=method)
    return single_run(spec, corpus, domain, _tree(cell, plan, spec, corpus, cooled))


def _mixed(structure: Structure, of: dict[str, dict[str, Any]], folders: dict[str, Corpus], folder: Path, seed: int) -> Sweep:
    used = [plan for plan in structure.domains if plan.tokens_spec > 0]
    if not used or not structure.tokens_general:
        raise DataError("the mix has no general or no specialist text", remedy="launch another --structure")
    names = {plan.name: _domain(plan, of[plan.name], folders[plan.name]) for plan in structure.domains}
    corpus, total = folders[used[0].name], sum(plan.tokens_spec for plan in used)
    parts = tuple(Part(names[plan.name], plan.tokens_spec / total, plan.unique_spec) for plan in structure.domains)
    spec = replace(_spec(of[used[0].name], corpus, parts[0].domain, folder), mixture=parts)
    unique = sum(plan.unique_spec for plan in used)
    cell = Cell(used[0].params_non_embedding, seed, structure.tokens_general, 0.0, unique, 0.0, total / (total + structure.tokens_general))
    return single_run(spec, corpus, parts[0].domain, _tree(cell, used[0], spec, corpus))


def _tree(cell: Cell, plan: DomainPlan, spec: SweepSpec, corpus: Corpus, cooled: bool = False) -> Tree:
    """Arrange one run; `cooled` where its trunk is also cooled down for domains without a stage."""
    shapes = {cell.size: ModelShape(**plan.shape)} if plan.shape else None
    beside = [Cell(cell.size, cell.seed, cell.tokens_pt, 0.0, None)] if cooled and cell.tokens_spec else []
    tree = build_tree([cell, *beside], spec.recipe, corpus.vocab_size, eval_tokens=spec.eval_tokens, shapes=shapes)
    by_id = {segment.segment_id: segment for segment in tree.segments}
    path = [next(segment for segment in tree.segments if segment.cell == cell)]
    while path[-1].parent_id is not None:
        path.append(by_id[path[-1].parent_id])
    return replace(tree, segments=tuple(reversed(path)))


def begin_domains(launch: DomainsLaunch) -> None:
    """Record once, before the first step, the forecast that the runs will be compared with.

    Raises:
        StateError: the folder holds something else, or the forecast is stamped later than now.
    """
    digest, path = sha256_file(launch.path), launch.folder / "launch.json"
    runs = {name: run.tree.tips[0].segment_id for name, run in launch.runs.items()}
    if path.exists():
        found = read_artifact(path, KIND, VERSION)
        if found["inputs"].get("allocation") != digest or found["structure"] != launch.structure.name or found["runs"] != runs:
            raise StateError(f"{launch.folder} holds a launch of another plan, structure or seed", remedy="give another --out, or delete that folder")
        return
    if launch.folder.exists() and not all(is_of_a_start(item, digest) for item in launch.folder.iterdir()):
        raise StateError(f"{launch.folder} is not empty and holds no launch", remedy="give another --out")
    started = start_after(launch.answer.created, launch.path)
    launch.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(launch.folder / COPY, launch.path.read_bytes())
    body = {
        "structure": launch.structure.name,
        "runs": runs,
        "started": started,
        "requested_and_realised": launch.realised(),
    }
    write_artifact(path, KIND, VERSION, body, {"allocation": digest})

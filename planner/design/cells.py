"""One endpoint of a sweep, parts of a mixture of text, and axes to be crossed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from planner.method import Method


@dataclass(frozen=True, order=True)
class Cell:
    """One endpoint to train."""

    size: float
    """Requested non-embedding parameters; with bases, those of one of them, which may be left out if there is only one."""
    seed: int
    """Seed of initialisation and data order."""
    tokens_pt: float
    """General tokens requested."""
    tokens_spec: float
    """Specialist tokens of the specialist stage requested, repeats included."""
    unique_spec: float | None
    """Cap on distinct specialist tokens; infinity ("all" in a file) for all there are, None (left out) where no stage has any."""
    replay_fraction: float = 0.0
    """Share of general tokens inside the specialist stage."""
    early_fraction: float = 0.0
    """Share of specialist tokens inside the general stage; `tokens_pt` counts the general ones only."""
    method: str = "full"
    """How it is trained: "full", "lora", "qlora"; from a base also "lora-both", "qlora-both". Without a specialist stage: how the general stage is."""

    @property
    def tokens_trunk(self) -> float:
        """Tokens of the general stage, the specialist ones inside it included."""
        return self.tokens_pt / (1 - self.early_fraction)

    @property
    def tokens_early(self) -> float:
        """Specialist tokens inside the general stage."""
        return self.tokens_trunk * self.early_fraction

    @property
    def tokens_stage(self) -> float:
        """Tokens of the specialist stage, replayed ones included."""
        return self.tokens_spec / (1 - self.replay_fraction)


@dataclass(frozen=True)
class Part:
    """One domain's text in a mix of several."""

    domain: str
    """Name of the domain in the corpus."""
    share: float
    """Of the mix's specialist tokens; the parts add up to 1."""
    unique_spec: float
    """Cap on its distinct tokens."""


@dataclass(frozen=True)
class Grid:
    """Axes to be crossed."""

    sizes: tuple[float, ...]
    """Non-embedding parameters; left out where there is a base, which has its own."""
    tokens_pt: tuple[float, ...]
    """General tokens; 0 for none."""
    tokens_spec: tuple[float, ...]
    """Tokens of the specialist stage, repeats included; 0 for none."""
    unique_spec: tuple[float, ...]
    """Caps on distinct specialist tokens; "all" for all that the corpus has."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of initialisation and data order."""
    replay_fractions: tuple[float, ...] = (0.0,)
    """Shares of general tokens inside the specialist stage."""
    early_fractions: tuple[float, ...] = (0.0,)
    """Shares of specialist tokens inside the general stage."""
    methods: tuple[str, ...] = ("full",)
    """How the runs are trained: "full", "lora", "qlora"; from a base also "lora-both", "qlora-both"."""

    def cells(self) -> list[Cell]:
        """Cross the axes; of the caps that the tokens do not exceed, keep the smallest, since the others train the same run."""
        found = []
        generals = dict.fromkeys(Method(method).general.name for method in self.methods)
        for size, seed, tokens_pt, tokens_spec in product(self.sizes, self.seeds, self.tokens_pt, self.tokens_spec):
            for early in self.early_fractions if tokens_pt > 0 else (0.0,):
                plain = Cell(size, seed, tokens_pt, tokens_spec, None, early_fraction=early)
                seen = tokens_spec + plain.tokens_early
                if seen == 0:
                    found += [replace(plain, method=method) for method in generals] if tokens_pt > 0 else []
                    continue
                enough = [cap for cap in sorted(self.unique_spec) if cap >= seen]
                for cap in [cap for cap in self.unique_spec if cap < seen] + enough[:1]:
                    if tokens_spec == 0:
                        found.append(replace(plain, unique_spec=cap))
                        continue
                    for replay, method in product(self.replay_fractions, self.methods):
                        found.append(replace(plain, unique_spec=cap, replay_fraction=replay, method=method))
        return found

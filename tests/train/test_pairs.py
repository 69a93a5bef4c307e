"""Training on pairs: which targets count, and that held-out losses are of responses after their own prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner.corpus.store import Corpus
from planner.errors import InputError
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from planner.train.order import IGNORED, Batches, Stream
from tests.train.shared import WORDS, InlineEngine, lay_out, paired_corpus

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def paired(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pairs = [(f"say {word} {number}", f"{word} {word}") for word in WORDS for number in range(8)]
    return paired_corpus(text_folder, tmp_path_factory.mktemp("pairs"), pairs, "asked")


def test_targets_of_prompts_and_of_cut_pairs_are_ignored() -> None:
    """Pairs of four tokens, two of them a response, and one longer than a window."""
    tokens = np.arange(100, dtype=np.uint16)
    offsets = np.array([*range(0, 81, 4), 100])
    mask = ((tokens % 4) >= 2).astype(np.uint8)
    stream = Stream(tokens, 10, 0, "x", mask=mask, offsets=offsets)
    seen = set()
    for index in range(3 * stream.windows):
        inputs, targets = stream.pair(index)
        start = int(inputs[0])
        seen.add(start % 4)
        assert (stream.window(index)[:-1] == inputs).all()
        for place, target in zip(range(start + 1, start + 11), targets, strict=True):
            cut = start % 4 != 0 and place < start - start % 4 + 4 and start < 80
            assert target == (IGNORED if place % 4 < 2 or cut else place), (start, place)
    assert seen == {0, 1, 2, 3}
    plain = Stream(tokens, 10, 0, "x")
    block = Batches(plain, 2).step(0)
    assert (block[1] == block[0] + 1).all()


def test_the_loss_is_of_what_counts() -> None:
    from planner.train.loss import mean_loss

    random = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 7, generator=random), torch.randint(0, 7, (2, 5), generator=random)

    def model(input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=logits)

    whole = mean_loss(model, targets, targets, True)  # type: ignore[arg-type]
    assert torch.equal(whole, torch.nn.functional.cross_entropy(logits.reshape(-1, 7), targets.reshape(-1)))
    masked = targets.clone()
    masked[0], masked[1, :2] = IGNORED, IGNORED
    some = mean_loss(model, targets, masked, False)  # type: ignore[arg-type]
    assert some.item() == pytest.approx(torch.nn.functional.cross_entropy(logits[1, 2:], targets[1, 2:]).item(), rel=1e-6)
    assert mean_loss(model, targets, torch.full_like(targets, IGNORED), False).item() == 0.0  # type: ignore[arg-type]


def test_the_heldout_loss_is_of_each_response_after_its_own_prompt(paired: Corpus) -> None:
    from planner.ladder import shape_for
    from planner.recipe import Recipe
    from planner.train.evaluate import domain_loss, pairs_loss
    from planner.train.model import build_model

    torch.set_num_threads(1)
    model = build_model(shape_for(1e4, family="qwen3", vocab=paired.vocab_size), Recipe(seq_len=32), 0)
    loss, count = domain_loss(model, paired, "asked", 32, max_tokens=10**6, device=torch.device("cpu"))
    tokens, mask, offsets = paired.tokens("asked", "heldout"), paired.mask("asked", "heldout"), paired.offsets("asked", "heldout")
    assert mask is not None
    total, seen = 0.0, 0
    with torch.no_grad():
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
            ids = torch.from_numpy(tokens[start:stop].astype(np.int64))
            each = torch.nn.functional.cross_entropy(model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="none")
            keep = torch.from_numpy(np.asarray(mask[start + 1 : stop]).astype(bool))
            total, seen = total + each[keep].sum().item(), seen + int(keep.sum())
    assert count == seen and loss == pytest.approx(total / seen, rel=1e-5)
    few, counted = pairs_loss(model, tokens, mask, offsets, 32, max_tokens=20, device=torch.device("cpu"), group=2)
    assert 20 <= counted < 60 and few == pytest.approx(loss, rel=0.2)


def test_a_window_that_no_heldout_response_is_within_is_refused_before_training(paired: Corpus, tmp_path: Path) -> None:
    """With the length of the shortest prompt, at which a response is within; so is a text that is shorter than a window."""
    mask, offsets = paired.mask("asked", "heldout"), paired.offsets("asked", "heldout")
    assert mask is not None
    shortest = min(int(np.flatnonzero(mask[start:stop])[0]) for start, stop in zip(offsets[:-1], offsets[1:], strict=True))
    paired.check_heldout(["asked"], shortest)
    refused = f"prompts of asked exceed the window of {shortest - 1} tokens, the shortest with {shortest}.*; raise seq_len to {shortest} or more"
    with pytest.raises(InputError, match=refused):
        paired.check_heldout(["general", "asked"], shortest - 1)
    text = 'sizes = ["10k"]\ntokens_pt = ["21k"]\ntokens_spec = ["27k"]\nunique_spec = ["all"]\n'
    engine = InlineEngine()
    with pytest.raises(InputError, match="raise seq_len"):
        run_sweep(Sweep.open(lay_out(tmp_path, paired, text, "[recipe]\nseq_len = 2\nwarmup_steps = 20\n")), engine)
    assert engine.trained == [] and not (tmp_path / "records").exists()
    held = len(paired.tokens("general", "heldout"))
    paired.check_heldout(["general"], held - 1)
    with pytest.raises(InputError, match=f"the held-out text of general has {held} tokens, and a window of {held} needs {held + 1}; lower seq_len"):
        paired.check_heldout(["general"], held)


@pytest.mark.slow
def test_a_stage_of_pairs_teaches_the_responses(paired: Corpus, tmp_path: Path) -> None:
    text = 'sizes = ["10k"]\ntokens_pt = ["21k"]\ntokens_spec = [0, "27k"]\nunique_spec = ["all"]\n'
    assert run_sweep(Sweep.open(lay_out(tmp_path, paired, text)), InlineEngine()) == {}
    rows: dict[Any, Any] = read_runs(tmp_path / "runs.csv").set_index("branch_kind")["loss_spec"].to_dict()
    assert rows["stable"] < 0.6 * rows["zero_shot"]

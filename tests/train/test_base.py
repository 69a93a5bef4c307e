"""Runs that start from an open checkpoint: its shape, its weights, its tokenizer; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.corpus.store import Corpus
from planner.errors import InputError, StateError
from planner.pretrained import Pretrained
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from tests.train.shared import InlineEngine, checkpoint, lay_out

torch = pytest.importorskip("torch")

SWEEP = """
base = "base"
base_tokens = "2M"
tokens_pt = [0, "13k"]
tokens_spec = ["13.5k"]
unique_spec = ["5k"]
"""


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_of_a_family_counts_its_parameters(tmp_path: Path, corpus: Corpus, kind: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    from planner.train.start import open_checkpoint

    base = Pretrained.open(checkpoint(tmp_path / kind, corpus, kind, tie_word_embeddings=tied, attention_dropout=0.3))
    model = open_checkpoint(base.folder, base.shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == base.shape.params_total
    ids = torch.arange(12)[None]
    plain = AutoModelForCausalLM.from_pretrained(base.folder)
    assert plain.config.attention_dropout == 0.3 and not plain.training
    assert torch.equal(model.train()(input_ids=ids).logits, plain(input_ids=ids).logits), "dropout would draw from no seed"


def test_only_plain_safetensors_are_read(tmp_path: Path, corpus: Corpus) -> None:
    from planner.train.start import open_checkpoint

    folder = checkpoint(tmp_path / "base", corpus)
    weights = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InputError, match="no safetensors file of its folder"):
        Pretrained.open(folder)
    index.unlink()
    before = Pretrained.open(folder).fingerprint
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="weights in safetensors"):
        Pretrained.open(folder)
    (folder / "pytorch_model.bin").rename(weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Pretrained.open(folder).fingerprint != before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(InputError, match="quantization_config"):
        Pretrained.open(folder)
    (folder / "adapter_config.json").write_text("{}")
    for reads in (Pretrained.open, open_checkpoint):
        with pytest.raises(InputError, match="holds adapters beside a model .*; move them"):
            reads(folder)


@pytest.mark.parametrize("kind", ["qwen3", "own"])
def test_code_of_a_checkpoint_is_not_run_and_the_checkpoint_refused(tmp_path: Path, corpus: Corpus, kind: str) -> None:
    """Of a family that is known too: as that family's model it would be another one."""
    from planner.train.start import open_checkpoint

    folder = checkpoint(tmp_path / "base", corpus, "qwen3")
    path = folder / "config.json"
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    stated = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": kind}
    path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))
    for reads in (Pretrained.open, open_checkpoint):
        with pytest.raises(InputError, match="names code of the checkpoint's own .*, which is never run; give"):
            reads(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("stated", ["abc", 2.5, 0, [64]])
def test_a_context_that_is_no_number_is_refused(tmp_path: Path, corpus: Corpus, stated: object) -> None:
    path = checkpoint(tmp_path / "base", corpus) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": stated}))
    with pytest.raises(InputError, match="states max_position_embeddings = "):
        Pretrained.open(tmp_path / "base")


def test_another_tokenizer_or_context_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    base = checkpoint(tmp_path / "base", corpus)
    path = base / "tokenizer.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole, indent=7))
    Pretrained.open(base).check_corpus(corpus.tokenizer_path, corpus.vocab_size, 32)  # other bytes, the same tokens
    with pytest.raises(InputError, match="longer than the 64 positions"):
        Pretrained.open(base).check_corpus(corpus.tokenizer_path, corpus.vocab_size, 128)
    with pytest.raises(InputError, match="rows of the embedding"):
        Pretrained.open(base).check_corpus(corpus.tokenizer_path, 5000, 32)
    whole["model"]["merges"] = whole["model"]["merges"][:-1]
    path.write_text(json.dumps(whole))
    lay_out(tmp_path, corpus, SWEEP)
    with pytest.raises(InputError, match="is not that of base"):
        Sweep.open(tmp_path)


@pytest.mark.slow
def test_a_sweep_off_a_base(tmp_path: Path, corpus: Corpus) -> None:
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss
    from planner.train.start import start_model

    base = checkpoint(tmp_path / "base", corpus, "qwen2")
    sweep = Sweep.open(lay_out(tmp_path, corpus, SWEEP, recipe="[recipe]\nseq_len = 32\nbatch_sequences = 2\nlr_coefficient = 4e-3\nrewarm_steps = 10"))
    first = sweep.job(sweep.tree.segments[0])
    assert first.base == base.resolve() and first.segment.parent_id is None
    for name, parameter in AutoModelForCausalLM.from_pretrained(base).named_parameters():
        assert torch.equal(parameter, dict(start_model(first, corpus).named_parameters())[name]), name
    engine = InlineEngine()
    assert run_sweep(sweep, engine) == {}
    frame = read_runs(tmp_path / "runs.csv")
    assert list(frame["branch_kind"]) == ["annealed"] * 2 and (frame["base_tokens"] == 2e6).all() and frame["trunk_id"].nunique() == 1
    assert set(frame["base"]) == {Pretrained.open(base).fingerprint} and not frame["flags"].str.contains("mostly_warmup|tokens_per_parameter").any()
    assert (frame["params_total"] == Pretrained.open(base).shape.params_total).all()
    untrained = AutoModelForCausalLM.from_pretrained(base)
    before, _ = heldout_loss(untrained, corpus.tokens("mail", "heldout"), 32, max_tokens=640, device=torch.device("cpu"))
    assert (frame["loss_spec"] < before - 0.5).all()
    # The same checkpoint is the same start: nothing is left; another one under its name is not mixed in.
    assert run_sweep(sweep, InlineEngine()) == {} and len(engine.trained) == len(sweep.tree.segments)
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "model.safetensors").write_bytes(data)
    with pytest.raises(StateError, match="made with base"):
        run_sweep(Sweep.open(tmp_path), InlineEngine())


def test_what_a_base_cannot_be_combined_with(tmp_path: Path, corpus: Corpus) -> None:
    checkpoint(tmp_path / "base", corpus)
    lay_out(tmp_path, corpus, SWEEP + 'sizes = ["10k"]')
    with pytest.raises(InputError, match="a base, which has its own"):
        Sweep.open(tmp_path)
    lay_out(tmp_path, corpus, SWEEP.replace('base = "base"', 'base = ["base", "base"]').replace('"2M"', '["2M", "2M"]'))
    with pytest.raises(InputError, match="2 bases of 1 sizes"):
        Sweep.open(tmp_path)
    lay_out(tmp_path, corpus, SWEEP.replace('"2M"', '["2M", "3M"]'))
    with pytest.raises(InputError, match="2 counts for 1 bases"):
        Sweep.open(tmp_path)
    lay_out(tmp_path, corpus, 'base = "base"\ncell = [{size = "90k", tokens_pt = 0, tokens_spec = "13.5k", unique_spec = "5k"}]')
    with pytest.raises(InputError, match="matches 0 bases"):
        Sweep.open(tmp_path)

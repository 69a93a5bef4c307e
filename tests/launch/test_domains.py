"""A plan for two domains carried out on real text: the trunk once, a branch for each; and one model of the mix."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.domains.answer import DomainPlan, DomainsAllocation, Structure
from planner.allocate.domains.found import INDEPENDENT, MIXED, SPLIT
from planner.artifacts import read_json
from planner.cli.main import app
from planner.corpus.build import build_corpus
from planner.corpus.config import CorpusSettings, Source, TokenizerSettings
from planner.corpus.store import Corpus
from planner.errors import InputError, StateError
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.launch.domains import COOLED, MIX, TRUNK, prepare_domains
from planner.launch.parts import Part, forget_trunk, lay_parts, left, parts
from planner.runs import read_runs
from planner.train.full.plan import Settings
from planner.train.order import Mix, Stream
from planner.verify_domains import verify_domains
from tests.conftest import TINY_RECIPE
from tests.train.full.runs import forks, run_here, steps_of

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    sources = (Source("general", "txt", "general"), Source("parser", "txt", "special/_*.txt"), Source("mail", "txt", "special/[a-z]*.txt"))
    made = CorpusSettings(text_folder, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.1)
    return build_corpus(made, tmp_path_factory.mktemp("two") / "corpus")[0]


def answer(corpus: Corpus, scale: float = 1) -> DomainsAllocation:
    """A plan of 230 general and 210 and 220 specialist steps, or a multiple."""
    shape = shape_for(1e4, family="qwen3", vocab=corpus.vocab_size)
    size, price = float(shape.params_non_embedding), flops_per_token(shape, 32)
    pt, spec = scale * 230 * 64.0, {"parser": scale * 210 * 64.0, "mail": scale * 220 * 64.0}

    def structure(name: str, general: float, flops: float, pts: dict[str, float]) -> Structure:
        plans = tuple(
            DomainPlan(domain, weight, size, pts[domain], spec[domain], 4000.0, 3.4, 1.0, 1.0, 0.5, 4.0, 2.0, 6.0, None, {}, shape.to_dict())
            for domain, weight in (("parser", 1.0), ("mail", 3.0))
        )
        return Structure(name, "assumption: a test" if name == MIXED else "", 4.0, 2.0, 6.0, 0.0, None, size, general, flops, 0.3, plans)

    tokens = sum(spec.values())
    structures = (
        structure(SPLIT, pt, (pt + tokens) * price, dict.fromkeys(spec, pt)),
        structure(INDEPENDENT, 2 * pt, (2 * pt + tokens) * price, dict.fromkeys(spec, pt)),
        structure(MIXED, pt, (pt + tokens) * price, {name: pt + tokens - spec[name] for name in spec}),
    )
    common = {
        "sweep": "s", "recipe": TINY_RECIPE.to_dict(), "vocab_size": corpus.vocab_size, "corpus": corpus.fingerprint, "corpus_path": str(corpus.folder),
        "eval_tokens": 640,
    }  # fmt: skip
    sources = {f"{name}.json": {**common, "domain": name, "domains": [name]} for name in spec}
    return DomainsAllocation({"flops": 1.0, "domains": 2}, SPLIT, structures, (), (), sources)


def laid_down(plan: Path, folder: Path, structure: str | None = None, save_every: int | None = None) -> list[Part]:
    """Lay all runs of a plan down for one rank."""
    ready = prepare_domains(plan, folder, structure=structure)
    laid = parts(ready, 1, Settings(), save_every=save_every)
    lay_parts(ready, laid)
    return laid


def carried_out(plan: Path, folder: Path, structure: str | None = None) -> dict[str, dict[str, Any]]:
    """Train all runs of a plan in this process; return their records."""
    laid = laid_down(plan, folder, structure)
    while some := left(laid):
        assert run_here(some[0].folder)
    forget_trunk(laid)
    return {part.name: part.record for part in laid if part.record is not None and not part.run.forks}


@pytest.fixture(scope="module")
def split(two: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    answer(two).save(folder / "a.json", {})
    with forks():
        result = CliRunner().invoke(app, ["launch", str(folder / "a.json"), "--out", str(folder / "run"), "--threads", "1"])
    assert result.exit_code == 0 and "plan verify" in result.output, result.output
    return folder / "run"


def row(folder: Path, name: str) -> dict[str, Any]:
    return dict(read_json(next((folder / name / "records").iterdir()))["row"])


def test_the_trunk_is_trained_once_and_the_flops_are_those_of_the_plan(split: Path) -> None:
    assert list(steps_of(split / TRUNK)) == list(range(1, 231))
    assert list(steps_of(split / "mail")) == list(range(231, 451)) and list(steps_of(split / "parser")) == list(range(231, 441))
    launch = read_json(split / "launch.json")
    planned, realised = next((planned, realised) for name, planned, realised in launch["requested_and_realised"] if name == "flops")
    assert realised == pytest.approx(planned) and not (split / TRUNK / "states").exists()
    rows = {name: row(split, name) for name in ("parser", "mail")}
    assert rows["parser"]["tokens_pt"] == rows["mail"]["tokens_pt"] == 14720 and rows["mail"]["tokens_spec"] == 14080
    for name in rows:
        assert (split / name / "checkpoint" / "model.safetensors").exists()


def test_a_branch_is_to_the_bit_the_model_trained_alone(split: Path, two: Corpus, tmp_path: Path) -> None:
    """The structure of independent models has as many general tokens each as the trunk."""
    answer(two).save(tmp_path / "a.json", {})
    (one,) = [part for part in laid_down(tmp_path / "a.json", tmp_path / "run", "independent") if part.name == "mail"]
    assert one.run.trunk is None and run_here(one.folder)
    alone, branch = row(tmp_path / "run", "mail"), row(split, "mail")
    assert (alone["loss_spec"], alone["loss_general"], alone["flops"]) == (branch["loss_spec"], branch["loss_general"], branch["flops"])


def test_long_trunks_are_shared_too(two: Corpus, tmp_path: Path) -> None:
    answer(two, scale=100).save(tmp_path / "a.json", {})
    ready = prepare_domains(tmp_path / "a.json", tmp_path / "run")
    planned, realised = next((planned, realised) for name, planned, realised in ready.realised() if name == "flops")
    assert realised == pytest.approx(planned)


def test_the_checkpoint_is_the_run_and_the_branches_differ(split: Path, two: Corpus) -> None:
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss

    losses = {}
    for branch in ("parser", "mail"):
        model = AutoModelForCausalLM.from_pretrained(split / branch / "checkpoint")
        losses[branch] = heldout_loss(model, two.tokens("mail", "heldout"), 32, max_tokens=640, device=model.device)[0]
    assert losses["mail"] == pytest.approx(row(split, "mail")["loss_spec"], abs=1e-5) and losses["mail"] < losses["parser"] - 0.1


def test_replayed_text_is_in_the_branch_and_its_general_loss_is_verified(two: Corpus, tmp_path: Path) -> None:
    """One branch of 220 specialist steps with 20 % of replay: 275 steps off the trunk of 230."""
    plain = answer(two)
    kept = {"replay_fraction": 0.2, "tokens_replayed": 55 * 64.0, "loss": 5.0, "loss_low": 2.0, "loss_high": 8.0}
    first, second = plain.structures[0].domains
    replayed = replace(second, tokens_pt=second.tokens_pt + 55 * 64.0, general=kept)
    structure = replace(plain.structures[0], domains=(first, replayed))
    replace(plain, structures=(structure, *plain.structures[1:])).save(tmp_path / "a.json", {})
    ready = prepare_domains(tmp_path / "a.json", tmp_path / "run")
    realised = {name: (planned, real) for name, planned, real in ready.realised()}
    assert realised["mail: tokens_pt"] == (230 * 64, 230 * 64) and realised["mail: tokens_spec"] == (220 * 64, pytest.approx(220 * 64))
    records = carried_out(tmp_path / "a.json", tmp_path / "run")
    mail = records["mail"]["row"]
    assert mail["replay_fraction"] == 0.2 and mail["steps_spec"] == 275 and records["parser"]["row"]["replay_fraction"] == 0.0
    by = {item.name: item for item in verify_domains(tmp_path / "run").domains}
    assert by["mail"].general_forecast == (5.0, 2.0, 8.0) and by["mail"].general_measured == mail["loss_general"]
    assert by["parser"].general_forecast is None
    shown = CliRunner().invoke(app, ["verify", str(tmp_path / "run")])
    assert "general loss after mail" in shown.stdout and "general loss after parser" not in shown.stdout


def test_branches_are_trained_as_the_runs_of_their_law(two: Corpus, tmp_path: Path) -> None:
    plain = answer(two, scale=0.2)
    sources = {name: {**source, "method": "lora" if "mail" in name else "full"} for name, source in plain.sources.items()}
    replace(plain, sources=sources).save(tmp_path / "a.json", {})
    records = carried_out(tmp_path / "a.json", tmp_path / "run")
    assert {name: record["row"]["method"] for name, record in records.items()} == {"parser": "full", "mail": "lora"}
    assert records["mail"]["row"]["loss_spec"] != records["parser"]["row"]["loss_spec"]


def test_domains_without_a_stage_share_one_cooldown_of_the_trunk(two: Corpus, tmp_path: Path) -> None:
    """Trained once, evaluated on each; its FLOPs are three tenths of the trunk beside it, as the plan counts them."""
    plain = answer(two)
    first, second = plain.structures[0].domains
    trunk = {"tokens_pt": 400 * 64.0, "tokens_spec": 0.0}
    structure = replace(plain.structures[0], domains=(replace(first, **trunk), replace(second, **trunk)))
    replace(plain, structures=(structure, *plain.structures[1:])).save(tmp_path / "a.json", {})
    ready = prepare_domains(tmp_path / "a.json", tmp_path / "run")
    assert list(ready.runs) == [COOLED] and len(ready.realised()) == 7
    assert sum(segment.steps for _, _, segment in ready.segments()) == 400
    record = carried_out(tmp_path / "a.json", tmp_path / "run")[COOLED]
    by = {item.name: item.measured for item in verify_domains(tmp_path / "run").domains}
    assert by == record["loss_by_domain"] and by["parser"] != by["mail"]


def test_a_domains_model_is_evaluated_on_its_own_text(split: Path, two: Corpus) -> None:
    for name in ("parser", "mail"):
        result = CliRunner().invoke(app, ["evaluate", str(split / name), "--corpus", str(two.folder), "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["losses"]["loss_spec"] == pytest.approx(row(split, name)["loss_spec"], abs=1e-5)
    result = CliRunner().invoke(app, ["evaluate", str(split / "mail"), "--corpus", str(two.folder), "--domain", "parser", "--json"])
    assert json.loads(result.stdout)["losses"]["loss_spec"] != pytest.approx(row(split, "mail")["loss_spec"], abs=1e-3)


def test_it_is_verified_by_domain_and_by_weight(split: Path) -> None:
    result = verify_domains(split)
    by = {item.name: item for item in result.domains}
    assert result.measured == pytest.approx((by["parser"].measured + 3 * by["mail"].measured) / 4) and result.inside
    assert {name: read_runs(split / name / "runs.csv")["loss_spec"].item() for name in by} == {name: item.measured for name, item in by.items()}
    shown = CliRunner().invoke(app, ["verify", str(split)])
    assert shown.exit_code == 0 and "weighted mean" in shown.stdout and "inside" in shown.stdout, shown.output
    (split / "allocation.json").write_text((split / "allocation.json").read_text().replace('"loss": 4.0', '"loss": 3.9', 1))
    with pytest.raises(StateError, match="not the plan"):
        verify_domains(split)


def test_a_mixed_model_sees_all_domains(two: Corpus, tmp_path: Path) -> None:
    answer(two).save(tmp_path / "a.json", {})
    with forks():
        result = CliRunner().invoke(app, ["launch", str(tmp_path / "a.json"), "--structure", "mixed", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    record = read_json(next((tmp_path / "run" / MIX / "records").iterdir()))
    mix = record["row"]
    assert set(record["loss_by_domain"]) == {"parser", "mail"} and mix["branch_kind"] == "mixed"
    assert mix["tokens_spec"] == pytest.approx(430 * 64, rel=0.01) and mix["tokens_pt"] == pytest.approx(230 * 64, rel=0.01)
    assert verify_domains(tmp_path / "run").assumption


def test_a_mix_interleaves_by_share(two: Corpus) -> None:
    streams = [Stream(two.tokens(name, "train"), 32, 0, name) for name in ("parser", "mail", "general")]
    mix = Mix(list(zip(streams, (0.5, 0.2, 0.3), strict=True)))
    windows = [mix.pair(index)[0] for index in range(60)]
    counts = []
    for stream, count in zip(streams, (30, 12, 18), strict=True):
        own = [stream.pair(index)[0] for index in range(count)]
        counts.append(sum(any(np.array_equal(window, other) for other in own) for window in windows))
    assert counts == [30, 12, 18], "every stream's windows come once each, in its own order"


def test_what_cannot_be_launched_is_said(two: Corpus, tmp_path: Path) -> None:
    plan = answer(two)
    plan.save(tmp_path / "a.json", {})
    with pytest.raises(InputError, match="matches no single structure of the answer that has a plan"):
        prepare_domains(tmp_path / "a.json", tmp_path / "run", structure="nothing")
    other = {**plan.sources, "mail.json": {**plan.sources["mail.json"], "recipe": {**TINY_RECIPE.to_dict(), "warmup_steps": 30}}}
    replace(plan, sources=other).save(tmp_path / "b.json", {})
    with pytest.raises(InputError, match="differ in recipe"):
        prepare_domains(tmp_path / "b.json", tmp_path / "run")
    assert prepare_domains(tmp_path / "b.json", tmp_path / "run", structure="independent").runs.keys() == {"parser", "mail"}
    body = json.loads((tmp_path / "a.json").read_text().replace('"mail"', '"../mail"'))
    (tmp_path / "c.json").write_text(json.dumps(body))
    with pytest.raises(InputError, match="cannot name a folder"):
        prepare_domains(tmp_path / "c.json", tmp_path / "run")

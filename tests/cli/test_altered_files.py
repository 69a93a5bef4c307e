"""Files of earlier stages that somebody changed by hand, and files of another kind in the place of an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.allocate.allocation import Allocation
from planner.allocate.isoflop import IsoFlop
from planner.corpus.store import Corpus
from planner.fit.fitted import FittedLaw
from tests.cli.test_bad_input import refused
from tests.cli.test_commands import run
from tests.launch.test_launch import allocation

TABLE = Path("sweeps/medicine/runs.csv")


def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Set what the keys lead to, the last of them being the value."""
    *path, last, value = keys

    def edit(body: Any) -> None:
        for key in path:
            body = body[key]
        body[last] = value

    return edit


def altered(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Change a JSON file."""
    body = json.loads(path.read_text())
    edit(body)
    path.write_text(json.dumps(body))
    return path


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (put("members", 0, "params_kind", "nope"), "params_kind = 'nope'"),
        (put("members", 0, "status", 5), "status = 5"),
        (put("members", 0, "reference", "params", 0), "params = 0 of the reference of bounded-penalised"),
        (put("members", 0, "reference", {"params": 1e5}), "has no 'tokens'"),
        (put("members", 0, "theta", 0, -1.0), "E of bounded-penalised is outside 0.001 to 20"),
        (put("members", 0, "resamples", 0, 0, 1e9), "E of bounded-penalised is outside 0.001 to 20"),
        (put("members", 0, "parameters", "E", "value", 1.5), "differ from theta, by which it "),
        (put("members", 0, "parameters", {"E": {"value": 1.5}}), "bounded-penalised has other parameters now: E, "),
        (put("members", []), "no law in it"),
        (put("noise", -1), "noise = -1"),
        (put("noise", 1e308), "noise = 1e+308"),
        (put("least_loss", 1e308), "least_loss = 1e+308"),
        (put("support", "high", "epochs_spec", 1e308), "epochs_spec = 1e+308 of the support's high"),
        (put("source", "kept_flags", 5), "kept_flags = 5 of the source"),
        (put("drift", "much"), "drift = 'much'"),
        (put("drift", True), "drift = True"),
        (put("least_loss", None), "least_loss = None"),
        (put("support", "high", "params", 1.0), "params = 20000.0 to 1.0, zero False, of the support"),
        (put("support", "low", "flops", 10**400), "flops = 1000000000000000"),
        (put("source", "vocab_size", -5), "vocab_size = -5 of the source"),
        (put("source", "replicate_sd", "x"), "replicate_sd = 'x' of the source"),
        (put("source", "corpus_path", 5), "corpus_path = 5 of the source"),
        (put("source", "bytes_per_token", 0), "bytes_per_token = 0 of the source"),
    ],
)
@pytest.mark.parametrize("many", [False, True], ids=["one domain", "domains"])
def test_a_law(law: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None], sentence: str, many: bool) -> None:
    altered(law, edit)
    where = ["--spec-tokens", "200k", "--law", law]
    if many:
        rows = "".join(f'[[domain]]\nname = "{name}"\nunique_tokens = "200k"\n' for name in "ab")
        (tmp_path / "domains.toml").write_text(f'law = "{law}"\n{rows}')
        where = ["--domains", tmp_path / "domains.toml"]
    refused(sentence, "allocate", "--flops", "1e12", *where, "--out", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_what_a_law_may_lack(law: Path, tmp_path: Path) -> None:
    altered(law, put("source", "bytes_per_token", None))
    code, _, words = run("allocate", "--flops", "1e12", "--spec-tokens", "200k", "--law", law, "--out", tmp_path / "out.json")
    assert code == 0, words
    assert json.loads((tmp_path / "out.json").read_text())["felt"]["bits_per_byte"] is None


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (put("request", "flops", "x"), "flops = 'x' of the request"),
        (put("request", "flops", 10**400), "flops = 1000"),
        (put("request", "params_range", [1.0]), "params_range = (1.0,) of the request"),
        (put("request", "params_range", ["a", "b"]), "params_range = 'a' of the request"),
        (put("request", "wrong", 1), "unexpected keyword argument 'wrong'"),
        (put("request", "unique_spec", 0), "spec-tokens of 0 is not a positive number"),
        (put("inputs", 5), "wrong kind"),
        (put("plan", "loss_low", 90.0), "a loss of"),
    ],
)
def test_a_decision(law: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None], sentence: str) -> None:
    answer = tmp_path / "a.json"
    run("allocate", "--law", str(law), "--flops", "1e12", "--spec-tokens", "200k", "--out", str(answer))
    refused(sentence, "sweep", "design", "--flops", "1e12", "--decision", altered(answer, edit), "--dry-run")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loss_spec": 0}, "loss_spec = 0 of the row"),
        ({"loss_spec": -2.0}, "loss_spec = -2.0 of the row"),
        ({"loss_general": 10**400}, "loss_general = 1000"),
        ({"bpb_spec": "x"}, "bpb_spec = 'x' of the row"),
    ],
)
def test_a_record_of_a_launch(tmp_path: Path, corpus: Corpus, change: dict[str, Any], sentence: str) -> None:
    from planner.artifacts import sha256_file, write_artifact

    allocation(corpus).save(tmp_path / "allocation.json", {})
    body = {"run_id": "r", "started": "2999-01-01T00:00:00+00:00"}
    inputs = {"allocation": sha256_file(tmp_path / "allocation.json")}
    write_artifact(tmp_path / "launch.json", "launch", 1, {**body, "run_id": 5}, inputs)
    refused("a run named 5 cannot lie in", "verify", tmp_path)
    write_artifact(tmp_path / "launch.json", "launch", 1, body, inputs)
    row = {"status": "ok", "loss_spec": 2.0, "loss_general": 3.0, "bpb_spec": 1.0, **change}
    write_artifact(tmp_path / "records" / "r.json", "run", 1, {"row": row})
    refused(sentence, "verify", tmp_path)
    assert not (tmp_path / "verification.json").exists()


@pytest.mark.parametrize("kept", ["other.csv", "sweep.toml", "backtest.json", "mine.json"])
@pytest.mark.parametrize("command", ["allocate", "scaling", "fit", "backtest"])
def test_nothing_is_written_over_a_file_of_another_kind(law: Path, tmp_path: Path, command: str, kept: str) -> None:
    place = tmp_path / kept
    text = {"backtest.json": '{\n "kind": "launch",\n}', "mine.json": '{"answer": 42}'}.get(kept, "a,b\n1,2\n")
    place.write_text(text)
    options: dict[str, tuple[object, ...]] = {
        "allocate": ("--law", law, "--flops", "1e12", "--spec-tokens", "200k"), "scaling": ("--law", law, "--spec-tokens", "200k"),
        "fit": (TABLE, "--law", "gap-competing"), "backtest": (TABLE, "--law", "gap-competing"),
    }  # fmt: skip
    sentence = "holds the launch that another command wrote" if "launch" in text else "holds something that this command did not write"
    assert "name another file with --out, or move it away first" in refused(sentence, command, *options[command], "--out", place)
    assert place.read_text() == text


def test_no_picture_is_drawn_over_a_file_of_another_kind_and_none_where_no_file_can_be(law: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    asked = ("allocate", "--law", law, "--flops", "1e12", "--spec-tokens", "200k", "--figure", "--out")
    refused("a.png is not a PNG picture, and would be overwritten", *asked, tmp_path / "a.json")
    refused("a.png is a file", *asked, tmp_path / "a.png" / "b.json")
    assert not (tmp_path / "a.json").exists()
    for _ in range(2):  # an answer and a picture of ours may be replaced
        code, _, words = run(*map(str, asked), str(tmp_path / "b.json"))
        assert code == 0 and "b.png" in words


def test_what_the_planner_writes_may_be_replaced(law: Path) -> None:
    whole = FittedLaw.load(law)
    whole.save(law, {})
    assert FittedLaw.load(law).members[0].theta.tolist() == whole.members[0].theta.tolist()


def test_the_figure_of_a_law_of_one_stage_is_drawn_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.report import plans

    table = ["params_non_embedding,tokens_pt,loss_spec"]
    table += [f"{n:g},{n * r:g},{1.7 + 400 / n**0.34 + 400 / (n * r) ** 0.28}" for n in (1e7, 3e7, 1e8, 3e8, 1e9) for r in (5, 20, 80)]
    (tmp_path / "runs.csv").write_text("\n".join(table))
    assert run("fit", str(tmp_path / "runs.csv"), "--law", "chinchilla", "--no-figures")[0] == 0
    drawn: list[tuple[Allocation, IsoFlop]] = []
    monkeypatch.setattr(plans, "size_curve", lambda axis, answer, curve: drawn.append((answer, curve)))
    asked = ("allocate", "--law", str(tmp_path), "--flops", "1e20", "--figure", "--out", str(tmp_path / "a.json"))
    for limits in ((), ("--inference-tokens", "20B"), ("--general-tokens", "15B")):
        code, _, words = run(*asked, *limits)
        assert code == 0 and (tmp_path / "a.png").is_file(), words
        answer, curve = drawn.pop()
        assert curve.flops == 1e20 and curve.params[curve.best] == pytest.approx(answer.plan.params_non_embedding, rel=0.05)
        assert curve.loss.min() == pytest.approx(answer.plan.loss, rel=1e-3)

"""`plan allocate --base` with the options of a model of one's own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.sigmoid import curve
from planner.artifacts import sha256_file
from planner.cli.main import app

BASES = [
    "--base", "name=large,tokens=2M,params=300k,context=128,vocab=1024", "--base", "name=small,tokens=2M,params=60k,context=128,vocab=1024",
]  # fmt: skip


def run(law: Path, *options: str) -> tuple[int, str, str]:
    arguments = ["allocate", "--flops", "9e11", "--spec-tokens", "200k", *BASES, "--law", str(law), "--out", str(law.with_name("bases.json")), *options]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_inference_is_counted_shown_and_refused(law: Path) -> None:
    code, out, err = run(law, "--inference-tokens", "920k")
    assert code == 0, err
    assert "920k tokens of inference" in out and "inference FLOPs" in out.split("What each base costs")[1] and "FLOPs of inference, loss" in err
    body = json.loads(law.with_name("bases.json").read_text())
    assert body["choices"][0]["base"] == "small" and body["request"]["inference_tokens"] == 9.2e5
    assert all(choice["plan"]["flops"] + choice["plan"]["flops_inference"] <= 9e11 * (1 + 1e-9) for choice in body["choices"])
    code, out, err = run(law, "--inference-tokens", "2M")
    assert code == 0 and "warning: left out: large: its inference takes 1.88e+12 FLOPs, 9.77e+11 more than the budget" in err
    before = law.with_name("bases.json").read_bytes()
    code, out, err = run(law, "--inference-tokens", "1B")
    assert code == 2 and not out and err.count("\n") == 1 and "1B inference tokens of small take 2.67e+14 FLOPs" in err and "give at least" in err
    code, out, err = run(law, "--inference-tokens", "-5")
    assert code == 2 and not out and err.count("\n") == 1 and "'-5'" in err
    assert law.with_name("bases.json").read_bytes() == before


def test_laws_of_other_methods_beside_the_law_are_read(law: Path) -> None:
    body = json.loads(law.read_text())
    body["source"]["method"] = "lora"
    beside = law.with_name("law_lora.json")
    beside.write_text(json.dumps(body))
    code, out, err = run(law)
    assert code == 0 and "runs of another law" in out, err
    written = json.loads(law.with_name("bases.json").read_text())
    assert written["inputs"]["law_lora"] == sha256_file(beside)
    full, lora, qlora = written["ways"]
    assert lora["other_law"] and lora["loss_low"] < lora["loss"] < lora["loss_high"] and qlora["loss"] is None and qlora["higher_percent"] is None
    body["source"]["corpus"] = "another"
    beside.write_text(json.dumps(body))
    code, out, err = run(law)
    assert code == 0 and "runs of another law" not in out and "law_lora" not in json.loads(law.with_name("bases.json").read_text())["inputs"]


def test_the_law_of_the_method_asked_for_is_taken_where_a_folder_was_named(law: Path) -> None:
    body = json.loads(law.read_text())
    body["source"]["method"] = "lora"
    law.with_name("law_lora.json").write_text(json.dumps(body))
    code, out, err = run(law, "--law", str(law.parent), "--method", "lora")
    assert code == 0 and f"using {law.with_name('law_lora.json')}, the law of runs with that method" in " ".join(err.split()), err
    ways = {way["method"]: way for way in json.loads(law.with_name("bases.json").read_text())["ways"]}
    assert ways["lora"]["chosen"] and ways["lora"]["measured"] and not ways["lora"]["other_law"] and ways["full"]["other_law"]
    code, _, err = run(law, "--method", "lora")
    assert code == 0 and "was found beside this one: give it as --law" in " ".join(err.split())
    law.with_name("law_lora.json").write_text(law.read_text())  # by its name alone it is none of LoRA's
    code, _, err = run(law, "--law", str(law.parent), "--method", "lora")
    assert code == 0 and "of runs with that method" not in err


def test_a_folder_with_a_law_of_one_method_alone_says_so_and_is_taken_by_that_method(law: Path) -> None:
    body = json.loads(law.read_text())
    body["source"]["method"] = "lora"
    alone = law.with_name("alone")
    alone.mkdir()
    (alone / "law_lora.json").write_text(json.dumps(body))
    code, _, err = run(law, "--law", str(alone))
    told = f"error: {alone} has no law.json, but law_lora.json for lora; name it with --law {alone / 'law_lora.json'}."
    assert code == 2 and " ".join(err.split()) == told
    assert " ".join(run(law, "--law", str(alone), "--method", "full")[2].split()) == told
    code, out, err = run(law, "--law", str(alone), "--method", "lora")
    assert code == 0 and "runs of the law" in out, err


def test_memory_has_the_unit_of_a_small_model(law: Path) -> None:
    code, out, err = run(law)
    assert code == 0 and " MB" in out.split("What each base costs")[1] and " GB" not in out, err
    code, _, err = run(law, "--gpu-memory", "0.001")
    assert code == 2 and " GB" not in err and "which have 1 MB" in err


def test_perplexity_and_bits_per_byte_have_intervals(law: Path) -> None:
    body = json.loads(law.read_text())
    body["source"]["bytes_per_token"] = 2.5
    law.write_text(json.dumps(body))
    code, out, err = run(law)
    assert code == 0, err
    told = " ".join(out.split("The same in perplexity and bits per byte")[1].split("Plans within")[0].split())
    for choice in json.loads(law.with_name("bases.json").read_text())["choices"]:
        plan = choice["plan"]
        for ends in ([choice["loss_before"], choice["before_low"], choice["before_high"]], [plan["loss"], plan["loss_low"], plan["loss_high"]]):
            for value, low, high in (np.exp(ends), np.array(ends) / 2.5 / np.log(2)):
                assert f"{value:.4g} ({low:.4g} to {high:.4g})" in told


def test_without_inference_nothing_is_said_of_it(law: Path) -> None:
    _, out, err = run(law, "--figure")
    assert "of inference" not in out + err
    assert law.with_name("bases.png").read_bytes().startswith(b"\x89PNG") and f"written: {law.with_name('bases.png')}" in err


def test_the_tolerance_is_in_the_table_and_the_file(law: Path) -> None:
    bodies = {}
    for tolerance in ("0.2%", "20%"):
        code, out, err = run(law, "--tolerance", tolerance)
        assert code == 0, err
        assert f"Plans within {tolerance.replace('%', ' %')} of each base's best" in out and "cheapest of them" in out
        assert ("as good" in out) == (tolerance == "20%")
        bodies[tolerance] = json.loads(law.with_name("bases.json").read_text())
    narrow, wide = (body["choices"][0] for body in bodies.values())
    assert narrow["plan"] == wide["plan"] and wide["tokens_within"][0] < narrow["tokens_within"][0] <= narrow["plan"]["tokens_spec"]
    assert wide["cheapest"]["flops"] < narrow["cheapest"]["flops"]
    code, out, err = run(law, "--tolerance", "0")
    assert code == 2 and not out and "a tolerance of 0 is not a share" in err and err.count("\n") == 1


def test_the_best_guess_is_said_and_can_be_taken(law: Path) -> None:
    code, _, err = run(law)
    assert code == 0 and "best guess (fitted parameters alone): large, " in err
    code, out, err = run(law, "--best-guess", "--json")
    body = json.loads(out)
    assert code == 0 and body["best_guess"]["plan"] == body["choices"][0]["plan"] and body["best_guess"]["base"] == body["choices"][0]["base"]


def test_accuracy_is_that_of_the_recommended_plan(law: Path) -> None:
    loss = np.linspace(2.0, 5.0, 14)
    rows = "\n".join(f"{one},{value}" for one, value in zip(loss, curve(np.array([0.25, 0.85, 2.0, 3.0]), loss), strict=True))
    table = law.with_name("models.csv")
    table.write_text(f"loss,accuracy\n{rows}\n")
    code, out, err = run(law, "--accuracy", str(table), "--chance", "0.25")
    assert code == 0, err
    body = json.loads(law.with_name("bases.json").read_text())
    found, plan = body["accuracy"], body["choices"][0]["plan"]
    assert found["accuracy"] == pytest.approx(float(curve(np.array([0.25, 0.85, 2.0, 3.0]), np.array([plan["loss"]]))[0]), abs=1e-3)
    assert found["low"] < found["accuracy"] < found["high"] and found["chance_given"]
    assert "Accuracy, by 14 models" in out and f"{100 * found['accuracy']:.3g} %" in out
    assert body["inputs"]["accuracy"] == sha256_file(table)
    code, out, err = run(law, "--chance", "0.25")
    assert code == 2 and not out and "--chance" in err
    code, out, err = run(law, "--accuracy", str(table), "--out", str(table))
    assert code == 2 and not out and "would overwrite" in err
    code, out, err = run(law, "--accuracy", str(table), "--chance", "7")
    assert code == 2 and not out and "'7'" in err and err.count("\n") == 1


def test_next_runs_are_for_the_choice_among_the_bases(law: Path, tmp_path: Path) -> None:
    code, out, err = run(law, "--next-runs", "1e9")
    assert code == 2 and "too few for a tree of runs" in " ".join(err.split()) and law.with_name("bases.json").is_file()  # the answer stands
    code, out, err = run(law, "--next-runs", "many")
    assert code == 2 and not out and "'many'" in err and err.count("\n") == 1


SWEEPS = Path(__file__).parents[2] / "sweeps"


def allocated(sweep: str, folder: Path, *options: str) -> tuple[str, str]:
    law = SWEEPS / sweep / "law_2026-11-29.json"  # by which these amounts were found
    arguments = ["allocate", "--law", str(law), "--spec-tokens", "300k", "--out", str(folder / "bases.json"), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def test_the_answer_says_whether_the_runs_are_enough_or_what_to_run(tmp_path: Path) -> None:
    near = ("--base", "name=A,tokens=2M,params=100k,context=128,vocab=1024", "--base", "name=B,tokens=2M,params=50k,context=128,vocab=1024")
    _, err = allocated("medicine", tmp_path, "--flops", "1e12", *near)
    assert "the runs are enough for this choice of base and amount" in err and "its regret is negligible" in err and "sweep design" not in err
    _, err = allocated("medicine", tmp_path, "--flops", "4e13", *near)
    assert "the runs are enough" not in err and f"plan sweep design --flops BUDGET --decision {tmp_path / 'bases.json'}" in err
    _, err = allocated("medicine", tmp_path, "--flops", "1e12", "--method", "lora", *near)
    assert "the runs are enough" not in err and "sweep design" not in err  # no design here says what a method does
    far = ("--base", "name=A,tokens=2T,params=6.5B", "--allow-extrapolation")
    _, err = allocated("medicine", tmp_path, "--flops", "1e21", *far)
    assert "the runs are enough" not in err and "sweep design" not in err


def test_flops_stand_beside_6nd_and_every_method_has_one_line(tmp_path: Path) -> None:
    out, err = allocated("medicine", tmp_path, "--flops", "4e12", "--base", "name=A,tokens=2M,params=300k,context=128,vocab=1024")
    plan = json.loads((tmp_path / "bases.json").read_text())["choices"][0]["plan"]
    assert plan["flops_6nd"] == pytest.approx(6 * plan["params_non_embedding"] * plan["tokens_spec"]) and f"4e+12 ({plan['flops_6nd']:.3g})" in out
    assert "by 6·N·D)" in err and "distinct specialist tokens for A here" in err
    for method, measured in (("full", "runs of the law"), ("lora", "no runs"), ("qlora", "no runs")):
        assert re.search(rf"^ [ *]+ {method} .*B {'.*[+-]0.00 % ' * (measured == 'runs of the law')} +{measured} *$", out, re.MULTILINE), method
    assert "no runs: no run used this method" in out
    assert json.loads((tmp_path / "bases.json").read_text())["choices"][0]["tokens_interval"][1] == plan["tokens_spec"]


def test_a_share_kept_back_says_where_replay_holds_it_down(tmp_path: Path) -> None:
    general = str(SWEEPS / "computing" / "replay" / "law_general.json")
    base = ("--base", "name=A,tokens=2M,params=300k,context=128,vocab=1024")
    limit = ("--max-general-rise", "5%", "--general-law", general)
    _, err = allocated("computing", tmp_path, "--flops", "2e12", *limit, *base, "--kept-back", "0.3,0.5")
    assert "50 % kept back: 14.7k specialist tokens, since more would need over 50 % of replay" in err
    assert "30 % kept back" not in err

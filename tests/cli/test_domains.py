"""`plan allocate --domains`: the good path, many domains, and files that are wrong."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.allocate.domains.answer import DomainsAllocation
from planner.cli.main import app
from planner.fit.fitted import FittedLaw
from tests.next_runs.shared import unsure

ROOT = Path(__file__).parents[2]
GOOD = 'name = "{}"\nunique_tokens = "200k"\n'


@pytest.fixture
def folder(fitted: FittedLaw, tmp_path: Path) -> Path:
    (tmp_path / "laws").mkdir()
    fitted.save(tmp_path / "laws" / "law.json", {})
    return tmp_path


def run(folder: Path, text: str, *more: str, flops: str = "4e13") -> tuple[int, str, str]:
    (folder / "domains.toml").write_text(text, encoding="utf-8")
    arguments = ["allocate", "--flops", flops, "--domains", str(folder / "domains.toml"), "--out", str(folder / "a.json"), *more]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def file_of(*rows: str, top: str = 'law = "laws/law.json"\n') -> str:
    return top + "".join(f"[[domain]]\n{row}" for row in rows)


def test_the_good_path(folder: Path) -> None:
    rows = (GOOD.format("medicine") + "max_loss = 9.0\nweight = 2\n", 'name = "law"\nunique_tokens = 1e6\nlaw = "laws"\n')
    code, out, err = run(folder, file_of(*rows))
    assert code == 0, err
    for text in ("split training", "independent models", "one mixed model (see the assumption", "equal specialist compute", "no general text", "medicine",
                 "no specialisation", "50/50", "90/10", "FLOPs (6·N·D)"):  # fmt: skip
        assert text in " ".join(out.split()), text
    assert "assumption: for each domain the text of the others counts as general text" in err
    body = json.loads((folder / "a.json").read_text())
    assert all(f"({item['flops_6nd']:.3g})" in out for item in (*body["structures"], *body["arms"]) if item["loss"])
    assert body["kind"] == "domains" and body["schema_version"] == 1 and len(body["inputs"]) == 2
    assert [plan["name"] for plan in body["structures"][0]["domains"]] == ["medicine", "law"]
    code, out, _ = run(folder, file_of(*rows), "--json", "--params", "1e5", "--figure")
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")
    assert code == 0
    assert {plan["params_non_embedding"] for structure in json.loads(out)["structures"] for plan in structure["domains"]} == {
        json.loads(out)["structures"][0]["params_non_embedding"]
    }


def test_of_many_domains_some_are_shown_and_all_are_kept(folder: Path) -> None:
    code, out, err = run(folder, file_of(*(GOOD.format(f"domain-{number:02}") for number in range(15))), flops="2e14")
    assert code == 0, err
    assert sum(f"domain-{number:02}" in out for number in range(15)) == 12
    assert "specialist compute are shown; the file has all 15" in err
    assert len(json.loads((folder / "a.json").read_text())["structures"][0]["domains"]) == 15


def test_whose_text_is_priced_and_whose_law_is_warned_of_is_said(folder: Path) -> None:
    wide = FittedLaw.load(folder / "laws" / "law.json")
    replace(wide, source={**wide.source, "replicate_sd": wide.noise / 9}).save(folder / "laws" / "law.json", {})
    code, out, err = run(folder, file_of(*(GOOD.format(f"domain-{number}") for number in range(6))), flops="4e13")
    assert code == 0, err
    assert out.count("twice the text of domain-") == 4 and "the value of more text is computed for 4 of 6 domains" in err
    assert "domains 'domain-0', 'domain-1' and 4 more: runs scatter around the law by 9 times the noise between seeds" in err


@pytest.mark.parametrize(
    ("text", "offender", "remedy"),
    [
        (file_of(GOOD.format("a"), GOOD.format("b"), top=""), "domain 'a' has no law", "at the top of the file"),
        (file_of(GOOD.format("a") + 'law = "nowhere.json"\n', GOOD.format("b")), "there is no law", "relative to the file"),
        (file_of(GOOD.format("a"), GOOD.format("a")), "2 domains named 'a'", "a name of its own"),
        (file_of(GOOD.format("a"), 'name = "b"\nunique_tokens = -5\n'), "domain 'b': unique_tokens: -5 is negative", "positive"),
        (file_of(GOOD.format("a"), 'name = "b"\nunique_tokens = 0\n'), "unique_tokens of 0", "positive"),
        (file_of(GOOD.format("a"), 'name = "b"\n'), "domain 'b' has no unique_tokens", "unique_tokens ="),
        (file_of(GOOD.format("a")), "has 1 domain,", "use --spec-tokens"),
        ("", "has 0 domains,", "[[domain]]"),
        (file_of(*(GOOD.format(name) + "weight = 0\n" for name in "ab")), "every domain has weight 0", "positive weight"),
        (file_of(GOOD.format("a"), GOOD.format("b") + "weight = -1\n"), "domain 'b': a weight of -1", "positive number"),
        (file_of(GOOD.format("a"), GOOD.format("b") + 'weight = "much"\n'), "weight = 'much' is not a number", "write a number"),
        (file_of(GOOD.format("a"), GOOD.format("b") + "tokens = 3\n"), "there is no setting 'tokens'", "unique_tokens"),
        (file_of("unique_tokens = 3\n", GOOD.format("b")), "domain 1 has no name", "add name"),
        ("domain = 3", "not a list of tables", "[[domain]]"),
        (file_of(GOOD.format("a"), GOOD.format("b") + "max_loss = 0.2\n"), "domain 'b' cannot reach its max_loss of 0.2", "raise its max_loss"),
    ],
)
def test_bad_files_get_one_sentence(folder: Path, text: str, offender: str, remedy: str) -> None:
    code, out, err = run(folder, text)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert offender in err and remedy in err


@pytest.mark.parametrize(
    ("more", "offender"),
    [
        (["--spec-tokens", "1M"], "--spec-tokens states what --domains states"),
        (["--accuracy", "table.csv"], "--accuracy applies to one domain only"),
        (["--general-law", "laws"], "--general-law has no effect without a limit"),
        (["--max-general-rise", "3%", "--general-law", "nowhere.json"], "there is no law nowhere.json"),
        (["--max-general-rise", "3%"], "domain 'a' has no law of the general loss, which the limit needs"),
        (["--max-general-rise", "-3%"], "-3%"),
        (["--inference-tokens", "1000T"], "too few"),
        (["--tolerance", "2"], "2% if that is meant"),
    ],
)
def test_options_of_one_domain_are_refused(folder: Path, more: list[str], offender: str) -> None:
    code, _, err = run(folder, file_of(GOOD.format("a"), GOOD.format("b")), *more)
    assert code == 2 and offender in err and err.count("\n") == 1 and not (folder / "a.json").exists()


def test_a_law_of_the_general_loss_is_seen_to_without_a_limit_too(folder: Path, general: FittedLaw) -> None:
    general.save(folder / "laws" / "law_general.json", {})
    text = file_of(GOOD.format("a"), GOOD.format("b") + 'general_law = "laws/law_general.json"\n')
    code, _, err = run(folder, text, "--out", str(folder / "laws" / "law_general.json"))
    assert code == 2 and "would overwrite" in err
    code, _, err = run(folder, file_of(GOOD.format("a"), GOOD.format("b") + 'general_law = "nothere.json"\n'))
    assert code == 2 and "domain 'b': there is no law" in err


def test_limits_and_prices_are_shown(folder: Path, general: FittedLaw) -> None:
    general.save(folder / "laws" / "law_general.json", {})
    rows = (GOOD.format("medicine"), 'name = "law"\nunique_tokens = 1e6\ngeneral_law = "laws"\n')
    code, out, err = run(folder, file_of(*rows), "--max-general-rise", "10%", "--inference-tokens", "5M", "--tolerance", "1%", "--best-guess")
    assert code == 0, err
    for text in ("General loss after the specialist stage", "replayed", "What more would buy", "10 % more compute", "twice the text of law"):
        assert text in " ".join(out.split()), text
    for text in ("within 1 % of the best loss:", "regret, expected / 90 %:", "inference takes", "the limit (a rise of the general loss of at most 10 %)"):
        assert text in err, text
    assert "one mixed model" in out and "assumption" not in out + err  # the mix is left out, and so is what it would rest on
    body = json.loads((folder / "a.json").read_text())
    assert len(body["inputs"]) == 3 and body["worths"] and body["around"]["regret_90_percent"] >= 0
    assert body["structures"][0]["domains"][0]["general"]["replay_fraction"] >= 0


def models(path: Path, middle: float) -> str:
    """Write a table of twelve models of which guessing gets 0.25; return its name as a setting."""
    losses = [middle - 1.1 + 0.2 * number for number in range(12)]
    rows = [f"{loss},{0.25 + 0.6 / (1 + math.exp(3 * (loss - middle))) + 0.004 * (-1) ** number}" for number, loss in enumerate(losses)]
    path.write_text("\n".join(["loss,accuracy", *rows]), encoding="utf-8")
    return f'accuracy = "{path.name}"\n'


def test_accuracy_by_the_tables_of_the_domains(folder: Path) -> None:
    settings = models(folder / "one.csv", 3.2), models(folder / "two.csv", 7.0)
    rows = (GOOD.format("a") + settings[0] + "chance = 0.25\n", GOOD.format("b"), GOOD.format("c") + settings[1])
    code, out, err = run(folder, file_of(*rows))
    assert code == 0, err
    answer = DomainsAllocation.load(folder / "a.json")
    first, bare, far = answer.recommended.domains
    assert first.accuracy is not None and bare.accuracy is None and far.accuracy is not None
    expected = 0.25 + 0.6 / (1 + math.exp(3 * (first.loss - 3.2)))
    assert abs(first.accuracy["accuracy"] - expected) < 0.02 and first.accuracy["low"] < expected < first.accuracy["high"]
    assert first.accuracy["chance_given"] and not far.accuracy["chance_given"]
    assert all(plan.accuracy is None for item in answer.structures if item is not answer.recommended for plan in item.domains)
    assert "Accuracy, from each domain's own table of models" in out and f"{100 * first.accuracy['accuracy']:.3g} %" in out
    assert "domain 'c': the accuracy is an extrapolation" in err and "domain 'a': the accuracy" not in err
    assert any(name.endswith("two.csv") for name in json.loads((folder / "a.json").read_text())["inputs"])
    code, _, err = run(folder, file_of(*rows), "--out", str(folder / "one.csv"))
    assert code == 2 and "would overwrite" in err


@pytest.mark.parametrize(
    ("setting", "offender", "remedy"),
    [
        ('accuracy = "none.csv"', "domain 'a': there is no table", "loss and accuracy"),
        ("accuracy = 3", "accuracy = 3 is not a path", "models.csv"),
        ('accuracy = ""', "accuracy = '' is not a path", "models.csv"),
        ("chance = 0.25", "chance = 0.25 has no effect without accuracy", "add accuracy"),
        ('accuracy = "one.csv"\nchance = 25', "domain 'a': chance 25 is not from 0 to below 1", "0.25"),
        ('accuracy = "one.csv"\nchance = "some"', "chance = 'some' is not a number", "write a number"),
        ('accuracy = "laws/law.json"', "has no column loss", "header"),
    ],
)
def test_bad_tables_of_models_get_one_sentence(folder: Path, setting: str, offender: str, remedy: str) -> None:
    models(folder / "one.csv", 3.2)
    code, out, err = run(folder, file_of(GOOD.format("a") + setting + "\n", GOOD.format("b")))
    assert code == 2 and not out and err.count("\n") == 1 and not (folder / "a.json").exists()
    assert offender in err and remedy in err


def test_the_answer_is_not_written_over_what_it_came_from(folder: Path) -> None:
    text = file_of(GOOD.format("a"), GOOD.format("b"))
    for name in ("domains.toml", "laws/law.json"):
        code, _, err = run(folder, text, "--out", str(folder / name))
        assert code == 2 and "would overwrite" in err


def test_no_text_at_all_is_refused() -> None:
    result = CliRunner().invoke(app, ["allocate", "--flops", "1e13", "--law", str(ROOT / "sweeps" / "medicine")])
    assert result.exit_code == 2 and "--spec-tokens for one domain, or --domains for many" in result.stderr


def test_next_runs_ask_the_laws_and_design_for_the_one_that_is_worth_most(fitted: FittedLaw, folder: Path) -> None:
    text = file_of(GOOD.format("a"), GOOD.format("b"))
    code, out, err = run(folder, text, "--next-runs", "2e13", "--params", "60k..90k", "--max-epochs", "2")
    assert code == 0 and "no run would change this decision" in err and "Design: " not in out  # all refits of so sure a law agree
    unsure(fitted, 6.0).save(folder / "laws" / "law.json", {})
    code, out, err = run(folder, text, "--next-runs", "2e13", "--params", "60k..90k", "--max-epochs", "2")
    assert code == 0 and "no corpus is named" in err
    words = " ".join(out.split())
    assert "if one law were known" in words and "runs for the law of a, b, as if 'a' alone had the" in err and "this design" in words
    size = float(words.split("by a coarse search: ")[1].split("k parameters")[0])
    assert 60 <= size <= 90  # under the limits of the request
    assert json.loads((folder / "a.json").read_text())["knowing"][0]["domains"] == ["a", "b"]
    code, _, err = run(folder, file_of(GOOD.format("a") + "max_loss = 9.0\n", GOOD.format("b")), "--next-runs", "2e13")
    assert code == 2 and "which required losses do not allow; leave out either --next-runs or max_loss" in err
    code, _, err = run(folder, text, "--next-runs", "2e13", "--json")
    assert code == 2 and "--next-runs prints a table" in err

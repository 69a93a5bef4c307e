"""What people's own tables and files hold that ours do not: read as it is meant, flagged, or refused in one sentence."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.allocation import Allocation
from planner.cli.main import app
from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import fit_data
from planner.fit.fitted import FittedLaw
from planner.runs import one_recipe, read_runs
from planner.units import parse_count, parse_share

HEAD = "params_non_embedding,tokens_pt,loss_spec"


def rows(count: int = 12) -> list[str]:
    found = []
    for number in range(count):
        n, d = 1e6 * 3 ** (number % 4), 1e8 * 4 ** (number // 4)
        found.append(f"{n:.0f},{d:.0f},{1.7 + 400 / n**0.34 + 410 / d**0.28:.6f}")
    return found


def write(path: Path, head: str, lines: list[str]) -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    return result.exit_code, result.stderr


def test_a_status_is_read_as_people_write_it(tmp_path: Path) -> None:
    words = ["finished", "", "Completed", "success", "ok", "Diverged", "crashed", "running"]
    lines = [f"{row},{word}" for row, word in zip(rows(8), words, strict=True)]
    frame = read_runs(write(tmp_path / "runs.csv", f"{HEAD},status", lines))
    assert list(frame["status"][:6]) == ["ok"] * 5 + ["diverged"]
    assert ["unfinished" in str(flags) for flags in frame["flags"]] == [False] * 6 + [True] * 2


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: 4 cells where the header names 3 columns; use decimal points, not commas"):
        read_runs(write(tmp_path / "runs.csv", HEAD, [f"{row},7" for row in rows()]))
    with pytest.raises(InputError, match="line 4: 5 cells where the header names 3 columns"):
        read_runs(write(tmp_path / "runs.csv", HEAD, [*rows()[:2], "1,2,3,4,5", *rows()[2:]]))
    with pytest.raises(InputError, match="line 2: 3 cells where the header names 1 columns; put the header in the first line, and delete"):
        read_runs(write(tmp_path / "runs.csv", "Runs of last year", [HEAD, *rows()]))
    (tmp_path / "wide.csv").write_text("\n".join([HEAD, *rows()]), encoding="utf-16")
    with pytest.raises(InputError, match="is not text in UTF-8; save it as CSV in UTF-8"):
        read_runs(tmp_path / "wide.csv")
    trailing = read_runs(write(tmp_path / "commas.csv", HEAD, [f"{row}," for row in rows()]))
    assert list(trailing["params_non_embedding"][:2]) == [1e6, 3e6]


def test_trunks_without_seeds_stay_apart(tmp_path: Path) -> None:
    sized = sorted(rows(), key=lambda row: float(row.split(",")[0]))
    lines = [f"{row},t{number // 3},{'' if number > 5 else 1}" for number, row in enumerate(sized)]
    data = fit_data(read_runs(write(tmp_path / "runs.csv", f"{HEAD},trunk_id,seed", lines)))
    assert list(data.cluster) == [number // 3 for number in range(12)]


def test_endings_in_capitals_and_numbers_of_few_bits_are_read_as_what_they_are(tmp_path: Path) -> None:
    plain = read_runs(write(tmp_path / "runs.csv", HEAD, rows()))
    few = {"params_non_embedding": "float32", "tokens_pt": "int32", "loss_spec": "float16"}
    small = plain[HEAD.split(",")].astype(few).assign(tokens_spec=np.int32(2**31 - 1))
    small.to_parquet(tmp_path / "RUNS.PARQUET")
    small.to_json(tmp_path / "RUNS.JSONL", orient="records", lines=True)
    for name in ("RUNS.PARQUET", "RUNS.JSONL"):
        with pytest.warns(PlannerWarning, match="seen once"):
            found = read_runs(tmp_path / name)
        np.testing.assert_allclose(found["loss_spec"], plain["loss_spec"], rtol=1e-3)
        assert list(fit_data(found).tokens_spec + fit_data(found).tokens_pt) == list(plain["tokens_pt"] + 2.0**31 - 1)


def test_no_distinct_tokens_are_no_mistake_where_there_are_no_specialist_tokens(tmp_path: Path) -> None:
    special = [",0,0" if number < 6 else ",1e8,1e8" for number in range(12)]
    lines = [row + more for row, more in zip(rows(), special, strict=True)]
    assert read_runs(write(tmp_path / "runs.csv", f"{HEAD},tokens_spec,unique_spec", lines))["unique_spec"].isna().sum() == 6
    lines[7] = f"{rows()[7]},1e8,0"
    with pytest.raises(InputError, match="row 9: unique_spec = 0 is not positive"):
        read_runs(write(tmp_path / "runs.csv", f"{HEAD},tokens_spec,unique_spec", lines))


@pytest.mark.parametrize(("passes", "message"), [(1e-100, "larger than any run"), (1e9, "less than one")])
def test_distinct_tokens_that_follow_from_passes_keep_the_same_limits(tmp_path: Path, passes: float, message: str) -> None:
    with pytest.raises(InputError, match=f"row 2: unique_spec = .* is {message}"):
        read_runs(write(tmp_path / "runs.csv", f"{HEAD},tokens_spec,epochs_spec", [f"{row},1e8,{passes}" for row in rows()]))


def test_flops_in_another_unit_are_refused(tmp_path: Path) -> None:
    lines = [f"{row},{6 * float(row.split(',')[0]) * float(row.split(',')[1]) / 1e18:g}" for row in rows()]
    with pytest.raises(InputError, match="row 2: flops = .* off 6·N·D: is it in another unit"):
        read_runs(write(tmp_path / "runs.csv", f"{HEAD},flops", lines))
    stopped = [f"{row},diverged,1e6" if number == 3 else f"{row},ok," for number, row in enumerate(rows())]
    assert read_runs(write(tmp_path / "runs.csv", f"{HEAD},status,flops", stopped))["flops"].notna().sum() == 1


def test_a_method_is_read_as_people_write_it_and_one_that_is_not_known_is_told_of(tmp_path: Path) -> None:
    head = f"{HEAD},tokens_spec,unique_spec,method"
    assert fit_data(read_runs(write(tmp_path / "runs.csv", head, [f"{row},1e8,1e8, Full" for row in rows()]))).count == 12
    with pytest.raises(DataError, match="the table has sft; name it in the table as one of full, lora"):
        fit_data(read_runs(write(tmp_path / "runs.csv", head, [f"{row},1e8,1e8,SFT" for row in rows()])))


def test_a_table_of_early_text_alone_is_refused_for_that(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all 12 unflagged runs have specialist text in their general stage"):
        fit_data(read_runs(write(tmp_path / "runs.csv", f"{HEAD},early_fraction", [f"{row},0.1" for row in rows()])))


def test_what_is_larger_than_any_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 3: tokens_pt = 1e\\+40 is larger than any run"):
        read_runs(write(tmp_path / "runs.csv", HEAD, [rows()[0], "1e6,1e40,3.0"]))


def test_errors_come_back_from_another_process() -> None:
    for kind in (InputError, DataError):
        again = pickle.loads(pickle.dumps(kind("it is 3", remedy="make it 4")))
        assert type(again) is kind and str(again) == "it is 3; make it 4."


def test_nothing_is_written_over_what_is_read(fitted: FittedLaw, tmp_path: Path) -> None:
    table = write(tmp_path / "runs.csv", HEAD, rows())
    law, before = tmp_path / "law.json", table.read_bytes()
    fitted.save(law, {})
    kept = law.read_bytes()
    code, err = run("fit", law, "--no-figures")
    assert code == 2 and "is one JSON document, which is not supported" in err and law.read_bytes() == kept
    for command in (["fit", table, "--no-figures", "--out", table], ["backtest", table, "--no-figures", "--out", table]):
        code, err = run(*command)
        assert code == 2 and "would overwrite" in err
    for out, more in ((law, []), (tmp_path / "a.png", ["--figure"])):
        code, err = run("allocate", "--flops", "2e13", "--spec-tokens", "200k", "--law", law, "--out", out, *more)
        assert code == 2 and "would overwrite" in err
    assert table.read_bytes() == before and law.read_bytes() == kept and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("members",), []), (("support", "high", "flops"), None), (("source",), None), (("source", "recipe"), 3), (("source", "vocab_size"), 0),
     (("members", 0, "theta", 0), None), (("members", 0, "resamples"), [])],
    ids=str,
)  # fmt: skip
def test_a_damaged_law_is_one_sentence(keys: tuple[str | int, ...], value: object, fitted: FittedLaw, tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    fitted.save(path, {})
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="law.json"):
        FittedLaw.load(path)


def test_too_few_runs_for_a_backtest_are_refused(tmp_path: Path) -> None:
    code, err = run("backtest", write(tmp_path / "runs.csv", HEAD, rows(2)), "--no-figures")
    assert code == 2 and "too few for a backtest" in err


def test_commas_are_of_thousands_only() -> None:
    assert parse_count("1,200,000") == 1.2e6 and parse_count("12,000.5") == 12000.5
    for text in ("1,5M", "1,2000", ",5", "1,"):
        with pytest.raises(InputError):
            parse_count(text)


def test_shares() -> None:
    assert [parse_share(text) for text in ("3%", "0.03", " 250 %", "1", "0")] == pytest.approx([0.03, 0.03, 2.5, 1.0, 0.0])
    for text in ("3", "much", "-1%", "%", "1.01"):
        with pytest.raises(InputError):
            parse_share(text)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_law_of_specialist_tokens_alone_cannot_be_allocated(tmp_path: Path) -> None:
    table = write(
        tmp_path / "runs.csv",
        "params_non_embedding,tokens_spec,unique_spec,loss_spec",
        [f"{row.rsplit(',', 1)[0]},{float(row.split(',')[1]) / 3},{row.rsplit(',', 1)[1]}" for row in rows()],
    )
    code, err = run("fit", table, "--law", "chinchilla", "--no-figures", "--bootstrap", "20")
    assert code == 0, err
    code, err = run("allocate", "--law", tmp_path / "law.json", "--flops", "1e16", "--spec-tokens", "1M", "--out", tmp_path / "a.json")
    assert code == 2 and "specialist tokens only" in err and not (tmp_path / "a.json").exists()


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_corpus_that_no_run_repeats_has_laws_without_repeats(tmp_path: Path) -> None:
    """Auto tries them too, and their plans are of the corpus, a pass over it at the most."""
    table = tmp_path / "runs.csv"
    once = [f"{n},{d},{d},{loss}" for n, d, loss in (row.split(",") for row in rows(20))]
    write(table, "params_non_embedding,tokens_spec,unique_spec,loss_spec", once)
    code, err = run("fit", table, "--no-figures", "--bootstrap", "20")
    assert code == 0, err
    law = FittedLaw.load(tmp_path / "law.json")
    assert "chinchilla" in {row["law"] for row in law.scores} and law.one_corpus
    code, err = run("allocate", "--law", tmp_path / "law.json", "--flops", "1e17", "--spec-tokens", "1B", "--out", tmp_path / "a.json")
    assert code == 0, err
    answer = Allocation.load(tmp_path / "a.json")
    assert answer.plan.tokens_pt == 0 and 0 < answer.plan.epochs_spec <= 1 and answer.one_corpus
    assert any("treats repeated text as fresh" in text for text in answer.warnings)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_law_of_one_stage_needs_no_specialist_text(tmp_path: Path) -> None:
    table = write(tmp_path / "runs.csv", "params_non_embedding,tokens_pt,loss_spec", rows())
    assert run("fit", table, "--law", "chinchilla", "--no-figures", "--bootstrap", "20")[0] == 0
    result = CliRunner().invoke(app, ["allocate", "--law", str(tmp_path / "law.json"), "--flops", "1e19", "--out", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.stderr
    plan = json.loads((tmp_path / "a.json").read_text())["plan"]
    assert "Recommended size for 1e+19 FLOPs" in result.stdout and "specialist" not in result.stdout
    # 6·N·D at the optimum of the law that made the rows: (N/D)-balance of A·N^−α and B·D^−β.
    best = min((1.7 + 400 / n**0.34 + 410 / (1e19 / 6 / n) ** 0.28, n) for n in np.geomspace(1e7, 1e10, 4000))
    assert plan["params_non_embedding"] == pytest.approx(best[1], rel=0.1) and plan["loss"] == pytest.approx(best[0], rel=1e-3)


def test_text_too_short_for_a_stage_is_said_to_be_unused(fitted: FittedLaw, tmp_path: Path) -> None:
    law = tmp_path / "law.json"
    fitted.save(law, {})
    code, err = run("allocate", "--flops", "2e13", "--spec-tokens", "1k", "--law", law, "--out", tmp_path / "a.json")
    assert code == 0 and "the specialist text is left unused" in err and "--max-epochs" in err
    assert np.isclose(json.loads((tmp_path / "a.json").read_text())["plan"]["tokens_spec"], 0)


def test_branches_without_a_named_trunk_are_one_trunk(tmp_path: Path) -> None:
    """By size, general tokens and seed, as tables of ours name them; a table of one stage and runs from scratch stay apart."""
    head = "params_non_embedding,tokens_pt,tokens_spec,unique_spec,seed,loss_spec"
    lines = [
        f"{n},{pt},{spec},{spec / 2 if spec else ''},{seed},{3 + 0.1 * k}" for k, n in enumerate((100000, 300000, 1000000))
        for pt in (0, 4000000, 8000000) for seed in (0, 1) for spec in (0, 2000000, 4000000) if pt + spec > 0
    ]  # fmt: skip
    path = write(tmp_path / "runs.csv", head, lines)
    data = fit_data(read_runs(path))
    trunk = data.tokens_pt > 0
    assert data.guessed_trunks and len(set(data.cluster[trunk])) == 12 and len(set(data.cluster[~trunk])) == (~trunk).sum() == 12
    assert not set(data.cluster[trunk]) & set(data.cluster[~trunk])
    named = [f"{line},{'scratch' + str(k) if line.split(',')[1] == '0' else '-'.join(line.split(',')[:2])}" for k, line in enumerate(lines)]
    told = fit_data(read_runs(write(tmp_path / "named.csv", f"{head},trunk_id", named)))
    assert list(told.cluster) == list(data.cluster) and not told.guessed_trunks
    general = fit_data(read_runs(write(tmp_path / "general.csv", HEAD, [*rows(), *rows()])), keep=("copy",))
    assert len(set(general.cluster)) == 24 and not general.guessed_trunks


@pytest.mark.filterwarnings("default")
def test_guessed_trunks_are_told(tmp_path: Path) -> None:
    frame = read_runs(Path(__file__).parents[1] / "sweeps" / "nature" / "runs.csv")
    path = tmp_path / "bare.csv"
    frame.drop(columns=["trunk_id", "flags"]).to_csv(path, index=False)
    assert "runs without a trunk_id are taken to share a trunk" in run("fit", path, "--law", "root-rote", "--resamples", 20, "--no-figures")[1]


def test_counts_are_read_as_people_write_them(tmp_path: Path) -> None:
    plainly = read_runs(write(tmp_path / "plain.csv", HEAD, ["2000000,30000000000,2.5", "1200000,5e8,3.1"]))
    for head, lines in (
        (HEAD, ["2M,30B,2.5", '"1,200,000",500M,3.1']),
        (" params_non_embedding , tokens_pt,loss_spec ", ["2e6,30 B,2.5", '"1,200,000","500,000,000",3.1']),
    ):
        found = read_runs(write(tmp_path / "people.csv", head, lines))
        assert (found[HEAD.split(",")] == plainly[HEAD.split(",")]).all(axis=None)


def test_counts_beside_numbers_are_read_in_json_lines(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(
        '{"params_non_embedding": "2M", "tokens_pt": 3e10, "loss_spec": 2.5}\n{"params_non_embedding": 1200000, "tokens_pt": "500M", "loss_spec": 3.1}\n'
    )
    found = read_runs(tmp_path / "runs.jsonl")
    assert found["run_id"][0] == "row1", "the row of messages: there is no header"
    assert found["params_non_embedding"].tolist() == [2e6, 1.2e6] and found["tokens_pt"].tolist() == [3e10, 5e8]
    (tmp_path / "runs.jsonl").write_text('{"params_non_embedding": 2e6, "tokens_pt": 3e10, " tokens_pt": 2e10, "loss_spec": 2.5}\n')
    with pytest.raises(InputError, match="has the column 'tokens_pt' 2 times"):
        read_runs(tmp_path / "runs.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("runs.csv", f"{HEAD}\n2e6,30 billion,2.5\n", "tokens_pt = '30 billion' is not a number; write one such as 30000000000, 3e10 or 30B"),
        ("runs.csv", f'{HEAD}\n2e6,30B,"2,5"\n', "loss_spec = '2,5' is not a number; fix the row"),
        ("runs.csv", HEAD.replace(",", ";") + "\n2e6;3e10;2,5\n", "semicolons between its columns .*; save it with commas"),
        ("runs.tsv", HEAD.replace(",", "\t") + "\n2e6\t3e10\t2.5\n", "tabs between its columns .*; save it with commas"),
        ("runs.xlsx", "PK\x03\x04", "is a spreadsheet, which is not supported; save it as CSV"),
        ("runs.json", json.dumps([{"loss_spec": 2.5}] * 9), "is one JSON document, which is not supported; write JSON Lines"),
        ("runs.csv", ",".join(f"column_{number}" for number in range(90)) + "\n1\n", r"column_39 and 50 more\.$"),
    ],
)
def test_a_table_of_another_kind_is_refused_by_what_it_is(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_runs(tmp_path / name)


def test_perplexities_are_taken_for_no_losses(tmp_path: Path) -> None:
    lines = [",".join([*row.split(",")[:2], str(np.exp(float(row.split(",")[2])))]) for row in rows()]
    with pytest.raises(InputError, match="are these perplexities"):
        read_runs(write(tmp_path / "runs.csv", HEAD, lines))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_fingerprint_of_digits_is_no_number(ending: str, tmp_path: Path) -> None:
    # One recipe in 2,000 has one of digits alone, and of two with an e among them pandas makes one number, which is not finite.
    for recipes in (["5026356245165753"], ["0012345678901234"], ["12345678e9012345", "9876543210e12345"]):
        lines = [f"{row},{recipes[number % len(recipes)]},0{number}" for number, row in enumerate(rows())]
        path = write(tmp_path / "runs.csv", f"{HEAD}, recipe ,run_id", lines)
        if ending == "jsonl":
            cells = [line.split(",") for line in lines]
            records = [{**dict(zip(HEAD.split(","), map(float, cell), strict=False)), "recipe": cell[3], "run_id": cell[4]} for cell in cells]
            path = tmp_path / "runs.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        frame = read_runs(path)
        assert set(frame["recipe"]) == set(recipes) and list(frame["run_id"][:2]) == ["00", "01"]
        if len(recipes) > 1:
            with pytest.raises(DataError, match="2 fingerprints of recipe"):
                one_recipe(frame)

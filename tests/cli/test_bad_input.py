"""What a hostile or a hasty user writes ends in one sentence with the value and the remedy, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from tests.cli.test_commands import run
from tests.engines.tiny import lay_out
from tests.launch.test_launch import allocation

SOURCES = '[[source]]\ndomain="general"\nkind="txt"\npath="g"\n[[source]]\ndomain="s"\nkind="txt"\npath="s"\n'


def refused(sentence: str, *arguments: object) -> str:
    """Run a command that must be refused; return what it said."""
    code, out, words = run(*map(str, arguments))
    assert code == 2 and not out and words.count("error:") == 1 and "Traceback" not in words, words
    assert sentence in words
    return words


@pytest.mark.parametrize("name", ["x" * 400, "a\0b"], ids=["too long", "null"])
@pytest.mark.parametrize("command", [["sweep", "plan"], ["corpus", "inspect"], ["verify"], ["corpus", "build"]], ids=" ".join)
def test_names_that_no_file_can_have(command: list[str], name: str) -> None:
    words = refused("", *command, name)
    assert len(words) < 600, "the name is not repeated at full length"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("eval_tokens = 1.5", "eval_tokens = 1.5 is not a whole number; give a whole number"),
        ("seeds = [1e20]", "are not whole numbers up to 9007199254740992"),
        ('corpus = "\\u0000"', "a path holds a null character"),
    ],
)
def test_settings_of_a_sweep(tmp_path: Path, corpus: Corpus, setting: str, sentence: str) -> None:
    key = setting.split(" = ")[0]
    lines = [line for line in (lay_out(tmp_path / "whole", corpus) / "sweep.toml").read_text().splitlines() if not line.startswith(f"{key} =")]
    (tmp_path / "sweep.toml").write_text("\n".join([setting, *lines]))
    refused(sentence, "sweep", "plan", tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--sizes 10k,12k --rates 0,1e-3,2e-3", "a rate of 0 is not above 0 and at most 1"),
        ("--sizes 10k,12k --rates 1e-3,1e-3,2e-3", "rates of 0.001, 0.001, 0.002 contain a duplicate; give each rate once"),
        ("--sizes 10k,10k", "sizes of 10000, 10000 contain a duplicate; give each size once"),
        ("--sizes 10k", "sizes of 10000 are too few for a rule; give --sizes with at least 2 of them"),
        ("--sizes 10k,12k --tokens-pt 0 --tokens-spec 0", "0 general and 0 specialist tokens are 0 steps; give --tokens-pt and --tokens-spec for 200 to"),
        ("--sizes 10k,12k --tokens-spec 1e30", "1e+30 specialist tokens are 1.04167e+28 steps"),
        ("--sizes 10k,12k --device tpu", "--device 'tpu' is not known; choose cpu or cuda"),
        ("--sizes 10k,12k --workers 999999999", "--workers 999999999 are more processes than this machine can hold"),
    ],
)
def test_probes(tmp_path: Path, corpus: Corpus, options: str, sentence: str) -> None:
    pytest.importorskip("torch")
    folder = lay_out(tmp_path / "tiny", corpus)
    refused(sentence, "sweep", "tune-lr", folder, *options.split())
    assert [path.name for path in folder.iterdir()] == ["sweep.toml"], "nothing was begun"


def change(domain: dict[str, Any] | None = None, **settings: Any) -> Callable[[Path], None]:
    """Change the account of a corpus."""

    def edit(folder: Path) -> None:
        account = json.loads((folder / "corpus.json").read_text()) | settings
        if domain is not None:
            account["domains"]["mail"].update(domain)
        (folder / "corpus.json").write_text(json.dumps(account))

    return edit


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (change(vocab_size=None), "vocab_size = None"),
        (change(dtype="object"), "dtype = 'object'"),
        (change(domains={}), "domains = []"),
        (change({"tokens_train": "x"}), "tokens_train = 'x' of mail"),
    ],
)
def test_an_account_that_is_not_whole(tmp_path: Path, corpus: Corpus, damage: Callable[[Path], None], sentence: str) -> None:
    shutil.copytree(corpus.folder, tmp_path / "corpus")
    damage(tmp_path / "corpus")
    refused(sentence, "corpus", "inspect", tmp_path / "corpus")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [(lambda path: path.unlink(), "train.bin is missing"), (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, but")],
)
def test_shards_are_looked_at_before_a_sweep_begins(tmp_path: Path, corpus: Corpus, damage: Callable[[Path], None], sentence: str) -> None:
    pytest.importorskip("torch")
    shutil.copytree(corpus.folder, tmp_path / "corpus")
    damage(tmp_path / "corpus" / "mail" / "train.bin")
    folder = lay_out(tmp_path / "tiny", Corpus.open(tmp_path / "corpus"))
    assert "build the corpus again with plan corpus build --force" in refused(sentence, "sweep", "run", folder)
    assert [path.name for path in folder.iterdir()] == ["sweep.toml"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("[tokenizer]\nvocab_size = 300.5", "vocab_size = 300.5 is not a whole number"),
        ("[tokenizer]\npath = 5", "tokenizer path = 5 names no folder"),
        ("[tokenizer]\nmixture = 5", "tokenizer mixture = 5 is not a table"),
        ("[tokenizer]\nmixture = {s = inf}", "tokenizer mixture holds s = inf"),
        ('[duplicates]\nnear_duplicates = "no"', "near_duplicates = 'no' is neither true nor false"),
    ],
)
def test_settings_of_a_corpus(tmp_path: Path, settings: str, sentence: str) -> None:
    (tmp_path / "corpus.toml").write_text(f"{SOURCES}{settings}\n")
    refused(sentence, "corpus", "build", tmp_path)


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("place", ["g", "corpus.toml"])
def test_a_corpus_is_never_built_over_something_else(tmp_path: Path, place: str, force: list[str]) -> None:
    for name in ("g", "s"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")
    (tmp_path / "corpus.toml").write_text(SOURCES)
    refused("is not the folder of a corpus; choose another --out", "corpus", "build", tmp_path, "--out", tmp_path / place, *force)
    assert (tmp_path / "g" / "a.txt").read_text() == "text"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [({"recipe": 5}, "recipe = 5 of the source"), ({"corpus_path": 5}, "corpus_path = 5 of the source"), ({"eval_tokens": "x"}, "eval_tokens = 'x'")],
)
def test_a_plan_whose_source_is_not_whole(tmp_path: Path, corpus: Corpus, source: dict[str, Any], sentence: str) -> None:
    answer = allocation(corpus)
    answer.source.update(source)
    answer.save(tmp_path / "a.json", {})
    refused(sentence, "launch", tmp_path / "a.json", "--out", tmp_path / "run", "--dry-run")


def test_a_launch_and_a_record_that_are_not_whole(tmp_path: Path, corpus: Corpus) -> None:
    from planner.artifacts import sha256_file, write_artifact

    allocation(corpus).save(tmp_path / "allocation.json", {})
    inputs = {"allocation": sha256_file(tmp_path / "allocation.json")}

    def launch(**body: Any) -> None:
        write_artifact(tmp_path / "launch.json", "launch", 1, {"run_id": "r", "started": "2999-01-01T00:00:00+00:00"} | body, inputs)

    launch(started="x")
    refused("launch.json holds a value of the wrong kind", "verify", tmp_path)
    launch(started="1999-01-01T00:00:00+00:00")
    refused("younger than the run", "verify", tmp_path)
    launch()
    refused("has not ended", "verify", tmp_path)
    (tmp_path / "verification.json").write_text("{}")  # as in a launch whose records were not kept
    refused("is gone; its earlier verification is in", "verify", tmp_path)
    (tmp_path / "verification.json").unlink()
    for body, sentence in (({}, "has no 'row'"), ({"row": 5}, "wrong kind"), ({"row": {"status": "ok", "loss_spec": None}}, "loss_spec = None")):
        write_artifact(tmp_path / "records" / "r.json", "run", 1, body)
        refused(sentence, "verify", tmp_path)
    assert not (tmp_path / "verification.json").exists() and not (tmp_path / "verification.png").exists()


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_random_ones(tmp_path: Path, corpus: Corpus) -> None:
    pytest.importorskip("torch")
    from tests.train.shared import checkpoint

    folder = checkpoint(tmp_path / "base", corpus)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    refused("of the weights that its config.json asks for, such as model.layers.2.", "evaluate", folder, "--corpus", corpus.folder)
    assert not (folder / "evaluation.json").exists()


@pytest.mark.parametrize("command", ["fit", "backtest"])
def test_a_law_is_named_once(command: str) -> None:
    refused("the law root-rote is named 2 times; name it once", command, "sweeps/medicine", "--law", "root-rote, root-rote")


def test_runs_that_all_diverged_are_not_offered_flags(tmp_path: Path) -> None:
    rows = "".join(f"{size}e5,1e6,,diverged\n" for size in (1, 2, 4, 8, 16))
    (tmp_path / "runs.csv").write_text(f"params_non_embedding,tokens_pt,loss_spec,status\n{rows}")
    assert "--keep" not in refused("all 5 runs diverged, and none has a loss to fit", "fit", tmp_path / "runs.csv")


@pytest.mark.slow
def test_commas_between_thousands_are_no_list(law: Path, tmp_path: Path) -> None:
    code, out, words = run("scaling", "--law", str(law), "--spec-tokens", "200,000", "--points", "3", "--out", str(tmp_path / "s.json"), "--json")
    assert code == 0 and json.loads(out)["request"]["amounts"] == [200000], words
    asked = ("sweep", "design", "--flops", "1e13", "--law", str(law), "--corpus", "none", "--dry-run", "--sizes", "30,000")
    assert "it has 1 distinct model size (29.9k)" in run(*asked)[2]
    asked = ("backtest", "sweeps/medicine", "--law", "gap-competing", "--bootstrap", "20", "--out", str(tmp_path / "b.json"), "--cutoffs")
    refused("(1e+18 FLOPs: 0 runs lie above", *asked, "1,000,000,000,000,000,000")


def test_a_seed_below_zero(law: Path) -> None:
    code, _, words = run("sweep", "design", "--flops", "1e12", "--law", str(law), "--seed", "-1")
    assert code == 2 and "-1" in words and "Traceback" not in words


def test_a_table_is_no_law(tmp_path: Path) -> None:
    (tmp_path / "my runs.csv").write_text("a,b\n1,2\n")
    asked = ("allocate", "--flops", "1e12", "--spec-tokens", "1M", "--law")
    refused("is a table of runs, not a law; fit one with plan fit '", *asked, tmp_path / "my runs.csv")


def test_the_command_that_is_advised_can_be_pasted(law: Path, tmp_path: Path) -> None:
    place = tmp_path / "an answer.json"
    _, _, words = run("allocate", "--law", str(law), "--flops", "2e13", "--spec-tokens", "200k", "--out", str(place))
    assert f"--decision '{place}'" in words

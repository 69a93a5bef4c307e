"""`--case`: what a file of options may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_bad_input import refused
from tests.cli.test_commands import run

WELL = 'flops = 1e12\nspec_tokens = "200k"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"[options]\n{WELL}out = 5", "out = 5 has the wrong type; write a path, in quotation marks"),
        (f"[options]\n{WELL}figure = 5", "figure = 5 has the wrong type; write true or false"),
        (f"[options]\n{WELL}max_epochs = true", "max_epochs = True has the wrong type; write a number"),
        (f"[options]\n{WELL}max_epochs = {10**400}", "max_epochs = 1000"),
        (f'[options]\n{WELL}max_epochs = "four"', "max_epochs = 'four' has the wrong type; write a number"),
        (f"[options]\n{WELL}gpus = 1.5", "gpus = 1.5 has the wrong type; write a whole number"),
        (f"[options]\n{WELL}params = true", "params = True has the wrong type; write a number, or text"),
        (f"[options]\n{WELL}params = [1, 2]", "write one value; only a repeatable option takes a list"),
        (f"[options]\n{WELL}base = [5, true]", "base = True has the wrong type"),
        (f"[options]\n{WELL}max-epochs = 4\nmax_epochs = 5", "'max_epochs' is given twice; write it once"),
        (f"[options]\n{WELL}as_json = true", "'as_json' is not an option of plan allocate"),
        (f"[options]\n{WELL}[other]\na = 1", "has 'other', which is not part of a case; use only options, title, known, asks, note"),
    ],
)
def test_what_no_option_takes(law: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "case.toml").write_text(text)
    refused(sentence, "allocate", "--case", tmp_path / "case.toml", "--law", law, "--out", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_the_words_of_the_command_line(law: Path, tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text(f'[options]\n{WELL}max-epochs = 4\njson = true\nlaw = "{law}"')
    code, out, words = run("allocate", "--case", str(tmp_path / "case.toml"), "--out", str(tmp_path / "out.json"))
    assert code == 0, words
    assert json.loads(out)["request"]["max_epochs"] == 4

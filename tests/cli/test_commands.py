"""The command line as a new user meets it."""

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from planner.allocate.allocation import Allocation
from planner.artifacts import sha256_file
from planner.cli.main import app

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["corpus", "build"], ["corpus", "inspect"], ["sweep", "plan"], ["sweep", "run"], ["sweep", "status"], ["sweep", "tune-lr"], ["sweep", "design"],
    ["laws"], ["fit"], ["backtest"], ["allocate"], ["scaling"], ["methods"], ["launch"], ["watch"], ["verify"], ["evaluate"], ["demo"],
]  # fmt: skip


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert f"Example: plan {' '.join(command)}" in " ".join(out.split())


def test_the_version_is_that_of_what_is_installed() -> None:
    assert run("--version") == (0, f"plan {version('compute-allocation-planner')}\n", "")


@pytest.mark.parametrize(("typed", "offered"), [("plan back", "backtest"), ("plan sweep des", "design"), ("plan fit --wi", "--with")])
def test_a_shell_completes_commands_and_options(typed: str, offered: str) -> None:
    asked = {"_PLAN_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    assert CliRunner().invoke(app, [], prog_name="plan", env=asked).stdout.split() == [offered]


def test_too_many_open_files_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the pipes of many workers under a low limit, which no path names."""

    def fail(*given: object, **named: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("planner.cli.paths.runs_files", fail)
    assert run("fit", "anything") == (2, "", "error: Too many open files; raise the limit on them (ulimit -n), or ask for fewer workers or ranks.\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_ends_no_command(encoding: str) -> None:
    for arguments in (["--help"], ["laws", "chinchilla"]):
        command = [sys.executable, "-m", "planner.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, b"") and (b"Usage" in done.stdout or b"?" in done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_closed_streams_take_nothing_away() -> None:
    """Messages stay off stdout, whose reader expects results, and what shows progress finds no terminal where there is no stream."""
    show = "import sys; sys.argv[1:] = ['fit', 'nowhere']; from planner.cli import console, main; main._open_streams(); console.Bar('x', 1); main.main()"
    for closed in ("2>&-", "2>&- <&-"):
        done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, show], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")


def test_the_list_of_commands_is_whole() -> None:
    import typer.main

    found = []

    def walk(group: object, path: list[str]) -> None:
        for name, item in group.commands.items():  # type: ignore[attr-defined]
            walk(item, [*path, name]) if hasattr(item, "commands") else found.append([*path, name])

    walk(typer.main.get_command(app), [])
    assert sorted(found) == sorted(COMMANDS)


ALLOCATE = ["allocate", "--law", str(ROOT / "sweeps" / "medicine"), "--flops", "2e13", "--spec-tokens", "200k", "--figure", "--next-runs", "5e13"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["laws", "--json"], ["fit", "nowhere.csv"], ["backtest", "nowhere.csv"], ["sweep", "plan", "nowhere"], ALLOCATE,
        ["allocate", "--domains", str(ROOT / "sweeps" / "three" / "domains.toml"), "--flops", "2e13"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)  # fmt: skip
def test_planning_never_imports_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from planner.cli.main import app\n"
        f"try: app({arguments!r})\nexcept SystemExit as end: print('code', end.code)\n"
        "print(sorted({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert out.strip().endswith("[]")
    assert f"code {2 if 'nowhere' in ' '.join(arguments) else 0}" in out


def test_comparisons_that_a_figure_has_no_room_for_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.cli.methods.MOST_PANELS", 1)
    laws = [str(ROOT / "sweeps" / "medicine" / "lora" / name) for name in ("law.json", "law_lora.json")]
    code, _, err = run("methods", *laws, "--params", "55k", "--spec-tokens", "50k,200k", "--figure", str(tmp_path / "methods.png"))
    assert code == 0 and (tmp_path / "methods.png").is_file()
    assert "the figure has the first 1 of 2 comparisons" in err


@pytest.mark.parametrize("arguments", [["--help"], ["allocate", "--help"], ["sweep", "run", "--help"]], ids=" ".join)
def test_help_does_not_wait_for_numpy(arguments: list[str]) -> None:
    code = f"import sys; from planner.cli.main import app\ntry: app({arguments!r})\nexcept SystemExit: pass\nprint('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False")


def test_allocate_never_imports_torch(law: Path) -> None:
    arguments = ["allocate", "--flops", "2e13", "--spec-tokens", "200k", "--law", str(law), "--out", str(law.with_name("a.json")), "--figure"]
    code = (
        f"import sys; from planner.cli.main import app\ntry: app({arguments!r})\nexcept SystemExit as error: assert not error.code, error.code\n"
        "print(sorted({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
    assert law.with_name("a.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "offender", "remedy"),
    [
        (["fit", "nowhere.csv"], "nowhere.csv", "give a sweep folder"),
        (["backtest", "nowhere.csv"], "nowhere.csv", "give a sweep folder"),
        (["allocate", "--flops", "much", "--spec-tokens", "1M"], "'much'", "write FLOPs"),
        (["allocate", "--flops", "1e20", "--spec-tokens", "-3"], "'-3'", "positive"),
        (["allocate", "--flops", "1e20", "--spec-tokens", "0"], "spec-tokens of 0", "positive"),
        (["allocate", "--flops", "3 GPU-days", "--spec-tokens", "1M"], "3 GPU-days", "--gpu-flops"),
        (["backtest", str(ROOT / "sweeps" / "medicine"), "--cutoffs", "much"], "'much'", "write FLOPs such as 1e22."),
        (["backtest", str(ROOT / "sweeps" / "medicine"), "--cutoffs", "3 GPU-days"], "3 GPU-days", "stated; write FLOPs such as 1e22."),
        (["allocate", "--flops", "1e20", "--spec-tokens", "1M", "--max-epochs", "nan"], "max-epochs of nan", "positive"),
        (["allocate", "--flops", "10", "--spec-tokens", "1M"], "10 FLOPs are too few", "give at least"),
        (["allocate", "--flops", "1e12", "--spec-tokens", "1M", "--params", "1B"], "1e+12 FLOPs", "smaller --params"),
        (["allocate", "--spec-tokens", "1M"], "no budget", "--gpu-hours"),
        (["allocate", "--gpu-hours", "3", "--spec-tokens", "1M"], "3 GPU-hours", "--mfu"),
        (["allocate", "--gpus", "1", "--hours", "3", "--gpu-flops", "1e9", "--inference-tokens", "1M", "--spec-tokens", "1M"], "--hours limits training",
         "--usd-per-gpu-hour"),
        (["allocate", "--gpu-hours", "3", "--gpu", "A100", "--spec-tokens", "1M"], "--mfu is missing", "add --mfu"),
        (["allocate", "--gpu-hours", "3", "--gpu", "A100", "--mfu", "forty", "--spec-tokens", "1M"], "'forty' is not a share", "0.03 or 3%"),
        (["allocate", "--gpu-hours", "3", "--gpu", "A100", "--mfu", "0%", "--spec-tokens", "1M"], "--mfu 0 is not a share", "such as 0.4"),
        (["verify", "."], "holds no launch", "plan launch began"),
        (["allocate", "--gpu-hours", "3", "--gpu", "abacus", "--mfu", "0.4", "--spec-tokens", "1M"], "'abacus'", "H100"),
        (["allocate", "--gpu-hours", "3", "--gpu-flops", "0", "--spec-tokens", "1M"], "--gpu-flops 0 is not", "4e14"),
        (["allocate", "--flops", "2e13", "--spec-tokens", "1M", "--params", "30001..30002"], "30,001 to 30,002", "widen --params"),
        (["allocate", "--usd", "100", "--gpu", "A100", "--mfu", "0.4", "--spec-tokens", "1M"], "--usd", "--usd-per-gpu-hour"),
        (["allocate", "--flops", "1e13", "--usd", "100", "--spec-tokens", "1M"], "--usd has no effect", "add --usd-per-gpu-hour"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--params", "2M..1M"], "2M..1M", "smaller size first"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--params", "10M-100M"], "'10M-100M' is not a range", "write 10M..100M"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--params", "1M,x"], "'x'", "write a number"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--base", "params=7B"], "lacks name", "name=llama-2-7b"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--method", "lora"], "--method", "--base"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--max-general-rise", "much"], "'much'", "3%"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--max-general-rise", "3%"], "a law of the general loss", "--target general"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--general-law", "x"], "--general-law", "--max-general-rise"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--next-runs", "1e13", "--json"], "--next-runs", "plan sweep design --json"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--next-runs", "many"], "'many'", "write FLOPs"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--lora-rank", "3"], "--lora-rank", "--base"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--tolerance", "2"], "'2'", "2%"),
        (["allocate", "--flops", "1e13", "--spec-tokens", "1M", "--tolerance", "0.5"], "a tolerance of 0.5 is not a share", "0.005, or 0.5%"),
        (["launch", "nowhere.json"], "nowhere.json", "check the path"),
        (["verify", "nowhere"], "nowhere", "check the path"),
        (["sweep", "run", "nowhere"], "'nowhere'", "sweep.toml"),
        (["corpus", "inspect", "nowhere"], "nowhere", "plan corpus build"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_with_a_remedy(arguments: list[str], offender: str, remedy: str, law: Path) -> None:
    if arguments[0] == "allocate":
        arguments = [*arguments, "--law", str(law), "--out", str(law.with_name("a.json")), "--figure"]
    code, out, err = run(*arguments)
    assert code == 2
    assert not out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert offender in err and remedy in err
    assert not law.with_name("a.json").exists()


def test_allocate_a_base(law: Path) -> None:
    paths = ["--law", str(law), "--out", str(law.with_name("bases.json"))]
    bases = ["--base", "name=short,tokens=1M,params=100k,context=128,vocab=1024", "--base", "name=long,tokens=4M,params=100k,context=128,vocab=1024"]
    code, out, err = run("allocate", "--flops", "4e12", "--spec-tokens", "200k", *bases, "--method", "qlora", "--gpus", "2", "--gpu-memory", "1", *paths)
    assert code == 0, err
    assert "short" in out and "from scratch" in err and "gains less" in err and "the effect of qlora on the loss is not measured" in err
    for option in (["--tolerance", "2"], ["--lora-rank", "8"], ["--accuracy", "nowhere.csv"], ["--next-runs", "1e13", "--json"]):
        code, out, err = run("allocate", "--flops", "4e12", "--spec-tokens", "200k", *bases, *paths, *option)
        assert code == 2 and not out and (option[0] in err or "'2'" in err or "nowhere.csv" in err) and err.count("\n") == 1
    code, out, _ = run("allocate", "--flops", "4e12", "--spec-tokens", "200k", *bases, *paths, "--json")
    body = json.loads(out)
    assert body["kind"] == "bases" and {choice["base"] for choice in body["choices"]} == {"short", "long"}
    law.with_name("bases.json").unlink()


def test_fit_and_allocate_a_foreign_table(tmp_path: Path) -> None:
    """N, D and loss alone: a single-stage law, with 6·N·D for the cost and no shape."""
    rows = ["N,D,loss"]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        for ratio in (5, 20, 80):
            rows.append(f"{n:.0f},{n * ratio:.0f},{1.7 + 400 / n**0.34 + 410 / (n * ratio) ** 0.28:.6f}")
    table = tmp_path / "theirs.csv"
    table.write_text("\n".join(rows) + "\n")
    maps = ["--map", "params_non_embedding=N", "--map", "tokens_pt=D"]
    code, _, err = run("fit", str(table), *maps, "--no-figures")
    assert code == 2 and "loss_spec" in err
    code, _, err = run("fit", str(table), *maps, "--map", "loss_spec=loss", "--no-figures")
    assert code == 0, err
    paths = ["--law", str(tmp_path / "law.json"), "--out", str(tmp_path / "a.json")]
    code, out, err = run("allocate", "--flops", "1e20", "--spec-tokens", "1M", *paths, "--json")
    assert code == 0, err
    answer = json.loads(out)
    # Chinchilla's closed form: N = G·(C/6)^(β/(α+β)), G = (αA/βB)^(1/(α+β))
    best = (0.34 * 400 / (0.28 * 410)) ** (1 / 0.62) * (1e20 / 6) ** (0.28 / 0.62)
    assert answer["plan"]["params_non_embedding"] == pytest.approx(best, rel=0.1)
    assert answer["plan"]["tokens_spec"] == 0
    assert "single-stage runs" in err
    assert answer["inputs"]["law"] == sha256_file(tmp_path / "law.json")
    code, _, err = run("launch", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"))
    assert code == 2 and "without a recipe" in err


def test_time_and_money_are_budgets(law: Path) -> None:
    arguments = ["--spec-tokens", "200k", "--law", str(law), "--out", str(law.with_name("b.json")), "--json"]
    code, out, err = run("allocate", "--usd", "1", "--usd-per-gpu-hour", "72", "--gpu-flops", "4e11", *arguments)
    assert code == 0, err
    assert json.loads(out)["request"]["flops"] == pytest.approx(2e13)
    code, out, err = run("allocate", "--gpus", "2", "--hours", "1e-5", "--gpu", "H100", "--mfu", "0.25", "--params", "30k..100k", *arguments)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["request"]["flops"] == pytest.approx(2 * 1e-5 * 3600 * 989e12 * 0.25)
    assert 29e3 < answer["plan"]["params_non_embedding"] < 103e3


def test_what_a_plan_takes_is_told_in_the_units_of_its_budget(law: Path) -> None:
    out_file = law.with_name("c.json")
    common = ["--spec-tokens", "200k", "--law", str(law), "--out", str(out_file), "--gpu-flops", "1e10", "--usd-per-gpu-hour", "2", "--gpus", "2"]
    base = ["--base", "name=A,tokens=1M,params=100k,vocab=1024,context=128"]
    domains = law.with_name("domains.toml")
    domains.write_text("".join(f'[[domain]]\nname = "{name}"\nlaw = "{law.name}"\nunique_tokens = 200000\n' for name in "ab"))
    many = ["--domains", str(domains), *common[4:]]
    asked = (common, ["--inference-tokens", "2M", *common], [*common, *base], many)
    for arguments in (["--flops", "7e12", *common], *(["--usd", "2", *each] for each in asked)):
        code, out, err = run("allocate", *arguments)
        assert code == 0, err
        answer = json.loads(out_file.read_text())
        one = answer["structures"][0] if "structures" in answer else answer.get("plan") or answer["choices"][0]["plan"]
        one = next((item for item in answer.get("structures", []) if item["name"] == answer["best"]), one)
        cost, served = answer["cost"], "--inference-tokens" in arguments
        assert cost["gpu_hours"] == pytest.approx(one["flops"] / 1e10 / 3600) and cost["hours"] == pytest.approx(cost["gpu_hours"] / 2)
        assert cost["gpu_hours_inference"] == pytest.approx(one["flops_inference"] / 1e10 / 3600) and (cost["gpu_hours_inference"] > 0) == served
        assert cost["usd"] == pytest.approx(2 * (cost["gpu_hours"] + cost["gpu_hours_inference"])) and cost["usd"] <= 2.01
        said = " ".join((out + err).split())
        assert "GPU-hours of training" in said and "on 2 GPUs" in said and "dollars" in said and ("at the speed of training" in said) == served
        assert answer["request"]["flops_per_gpu_second"] == 1e10 and answer["request"]["usd_per_gpu_hour"] == 2
    code, out, err = run("allocate", "--flops", "2e13", *common[:6])
    answer = json.loads(out_file.read_text())
    assert code == 0 and answer["cost"] is None and "GPU-hours" not in out + err
    del answer["cost"], answer["request"]["flops_per_gpu_second"], answer["request"]["usd_per_gpu_hour"]  # as older versions wrote it
    out_file.write_text(json.dumps(answer))
    assert Allocation.load(out_file).cost is None


def test_far_extrapolation_is_said_loudly(law: Path) -> None:
    arguments = ["allocate", "--flops", "1e22", "--spec-tokens", "5e9", "--law", str(law), "--out", str(law.with_name("a.json"))]
    code, out, err = run(*arguments)
    assert code == 2 and not out and "--allow-extrapolation" in err and not law.with_name("a.json").exists()
    code, out, err = run(*arguments, "--allow-extrapolation")
    assert code == 0
    assert "EXTRAPOLATION" in err and "times the largest run" in err and "train a sweep" in err and "NOT A FORECAST" in err
    said = "if every law has the wrong form this far out, true regret is larger"
    assert said in " ".join(out.split())
    medicine = Path(__file__).parents[2] / "sweeps" / "medicine"
    _, out, err = run("allocate", "--flops", "4e12", "--spec-tokens", "200k", "--law", str(medicine), "--out", str(law.with_name("near.json")))
    assert "inside the range of the runs" in err and said not in " ".join(out.split())


@pytest.mark.parametrize("option", ["--target", "--method", "--resampling"])
def test_a_slip_in_an_option_is_refused_before_the_table_is_read(option: str, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("a\n")
    code, _, told = run("fit", str(tmp_path / "runs.csv"), option, "../../x")
    assert code == 2 and f"{option} '../../x' is not known" in " ".join(told.split())


def test_the_tightest_limit_of_a_budget_counts_and_is_said(law: Path) -> None:
    common = ["allocate", "--spec-tokens", "200k", "--law", str(law), "--out", str(law.with_name("a.json")), "--json"]
    rate = ["--gpu-flops", "1e10"]  # FLOPs a second
    for given, flops, training, binding in (
        (["--flops", "4e13", "--gpus", "2", "--hours", "0.5"], 4e13, 3.6e13, "--hours binds: 3.6e+13 FLOPs; --flops would allow 4e+13"),
        (["--flops", "2e13", "--gpus", "2", "--hours", "0.5"], 2e13, 3.6e13, "--flops binds the budget: 2e+13 FLOPs; --hours would allow 3.6e+13"),
        (["--usd", "1", "--usd-per-gpu-hour", "2", "--gpus", "1", "--hours", "3"], 1.8e13, 1.08e14, "--usd binds the budget: 1.8e+13 FLOPs; --hours"),
    ):
        code, out, err = run(*common, *given, *rate)
        assert code == 0 and binding in " ".join(err.split()), err
        answer = json.loads(out)
        assert answer["request"]["flops"] == pytest.approx(flops) and answer["request"]["training_flops"] == pytest.approx(training)
        assert 0.99 * min(flops, training) < answer["plan"]["flops"] <= min(flops, training)
        assert answer["worths"][0]["change"] == f"10 % more {'time for training' if training < flops else 'compute'}"
        assert ("the time limit on training binds" in " ".join(answer["warnings"])) == (training < flops)
    code, out, err = run(*common[:-1], "--flops", "4e13", "--gpus", "2", "--hours", "0.5", *rate)
    assert code == 0 and "Recommended split of 4e+13 FLOPs (3.6e+13 of training within --hours) with" in " ".join(out.split())
    code, _, err = run(*common, "--gpus", "1", "--hours", "1e-6", *rate)
    assert code == 2 and "FLOPs of the time limit are too few" in err and "give time for" in err and "at least" not in err
    code, _, err = run(*common, "--flops", "4e13", "--gpus", "2", "--hours", "0.5")
    assert code == 2 and "1 GPU-hours cannot be converted to FLOPs" in err
    code, _, err = run(*common)
    assert code == 2 and "no budget is given" in err


def test_a_range_of_one_size_is_that_size(law: Path) -> None:
    common = ["--law", str(law), "--spec-tokens", "200k", "--json"]
    for command, out, more in (("allocate", "a.json", ["--flops", "2e13"]), ("scaling", "s.json", ["--points", "3"])):
        answers = [run(command, *common, *more, "--out", str(law.with_name(out)), "--params", params) for params in ("1e5..100k", "1e5")]
        assert [code for code, _, _ in answers] == [0, 0], answers
        a_range, a_size = ({key: value for key, value in json.loads(out).items() if key != "created"} for _, out, _ in answers)
        assert a_range == a_size


def test_a_command_is_made_once() -> None:
    """Help asks for each command twice, to name it and to tell of it; making all again would be a fifth of what it takes."""
    found = cast(Any, get_command(app)).commands
    assert found["laws"] is found["laws"] and "lawz" not in found and len(found) == len(list(found))

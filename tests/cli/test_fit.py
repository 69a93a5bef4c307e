"""`plan fit`: what it says of what it does not do, and how it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planner.artifacts import read_json
from planner.cli import helpers
from planner.errors import StateError
from planner.fit.parallel import run_tasks
from planner.flags import FLAGS
from planner.lock import _start
from tests.cli.test_commands import run

GRID = [f"{n:.0f},{d:.0f},{1.7 + 400 / n**0.34 + 410 / d**0.28:.6f}" for n in (1e6, 3e6, 1e7, 3e7) for d in (1e8, 2e8, 4e8, 8e8, 16e8)]
REPLAY = Path(__file__).parents[2] / "sweeps" / "computing" / "replay" / "runs.csv"


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_law_of_the_general_loss_says_its_conventions_and_that_nothing_is_drawn(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_bytes(REPLAY.read_bytes())
    asked = ["fit", str(table), "--target", "general", "--law", "rehearsal", "--bootstrap", "20"]
    code, out, err = run(*asked, "--profile")
    assert code == 0 and "no figures" in err and not (tmp_path / "figures").exists()
    titles = [line for line in out.splitlines() if line.startswith("Profiles of")]
    assert len(set(titles)) == len(titles) > 0 and all(title.endswith(("(N: total parameters)", "(N: non_embedding parameters)")) for title in titles)
    assert "no figures" not in run(*asked, "--no-figures")[2]


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_sweep_with_replay_gives_a_law_that_can_be_launched(tmp_path: Path) -> None:
    for name in ("runs.csv", "sweep.toml"):
        (tmp_path / name).write_bytes(REPLAY.with_name(name).read_bytes())
    code, _, err = run("fit", str(tmp_path), "--law", "additive-saturating", "--bootstrap", "20", "--no-figures")
    assert code == 0, err
    said = "kept out of the fit: 42 runs with replayed general text, which no law of the specialist loss describes; --target general fits such runs"
    assert said in err.splitlines()
    source = read_json(tmp_path / "law.json")["source"]
    assert source["recipe"] and source["corpus"] and source["rows"] == 27
    code, out, err = run("allocate", "--law", str(tmp_path), "--flops", "1e12", "--spec-tokens", "200k", "--out", str(tmp_path / "plan.json"))
    assert code == 0 and "without a recipe" not in out + err, err


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_runs_of_another_method_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    rows = [f"{line},{method}" for method in ("", "lora-both") for line in GRID]
    table.write_text("\n".join(["params_non_embedding,tokens_pt,loss_spec,method", *rows[:21]]) + "\n")
    code, _, err = run("fit", str(table), "--law", "chinchilla", "--bootstrap", "20", "--no-figures")
    assert code == 0 and "kept out of the fit: 1 run of another method (lora-both), which --method fits" in err.splitlines()


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_of_several_tables_each_is_named_above_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.csv").write_text("\n".join(["params_non_embedding,tokens_pt,loss_spec", *GRID]) + "\n")
    asked = ("--law", "chinchilla", "--bootstrap", "20", "--no-figures")
    out = run("fit", str(tmp_path), *asked)[1]
    assert [out.index(f"{name}/runs.csv: Law chinchilla") < out.index(f"{name}/runs.csv: Laws by") for name in ("one", "two")] == [True, True]
    assert "runs.csv" not in run("fit", str(tmp_path / "one"), *asked)[1]
    out = run("backtest", str(tmp_path), "--law", "chinchilla", "--bootstrap", "20", "--no-figures", "--cutoffs", "2e16")[1]
    assert all(f"{name}/runs.csv: Laws fitted to the runs" in out for name in ("one", "two")), out


def test_a_refusal_waits_for_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they end while the interpreter does, which now and then wrote an OSError of a closed pipe under the sentence."""
    monkeypatch.setattr(helpers, "default_workers", lambda: 2)
    table = tmp_path / "runs.csv"
    table.write_text("params_non_embedding,tokens_pt,loss_spec\n1e5,1e6,3.0\n")
    code, _, err = run("fit", str(table), "--no-figures")
    assert code == 2 and "only 1 run can" in err
    assert not multiprocessing.active_children()


def test_a_busy_helper_takes_nothing_that_another_could_do() -> None:
    """A pool of the standard library has three of four tasks in its one process's queue at once, and the first process waits for it to do them."""
    pool = helpers.Helpers(1)
    first, *others = [pool.submit(time.sleep, 0.3) for _ in range(4)]
    assert not first.cancel() and all(task.cancel() for task in others)
    assert run_tasks(pool, abs, [(-1,), (-2,), (-3,)], lambda share: None) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    tasks = [pool.submit(os._exit, 1), *(pool.submit(abs, -1) for _ in range(2))]
    for task in tasks:  # of a process that was killed nothing is waited for
        with pytest.raises(StateError, match="a helper process was killed"):
            task.result(timeout=60)
    pool.shutdown()
    assert not multiprocessing.active_children()


def test_a_helper_ends_with_a_command_that_is_terminated(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\nfrom planner.cli.helpers import Helpers\n"
        "if __name__ == '__main__':\n    print(Helpers(1).submit(os.getpid).result(), flush=True)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM
    until = time.monotonic() + 30
    while _start(int(done.stdout)) is not None:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_figures_of_one_table_are_drawn_while_the_next_is_fitted_and_stay_where_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "default_workers", lambda: 2)
    for name, lines in (("a", GRID), ("b", GRID), ("c", GRID[:3])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.csv").write_text("\n".join(["params_non_embedding,tokens_pt,loss_spec", *lines]) + "\n")
    code, _, err = run("fit", str(tmp_path), "--law", "chinchilla", "--bootstrap", "20")
    assert code == 2 and "only 3 runs" in err
    assert all((tmp_path / name / "figures" / "law.png").is_file() for name in "ab")
    (tmp_path / "c" / "runs.csv").unlink()
    code, _, err = run("fit", str(tmp_path), "--law", "chinchilla", "--bootstrap", "20")
    written = [line.partition(": ")[2] for line in err.splitlines() if line.startswith("written")]
    assert code == 0 and len(written) == len(set(written)) >= 4 and all(Path(path).is_file() for path in written)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_the_figures_of_a_second_law_leave_those_of_the_first(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(["params_non_embedding,tokens_pt,loss_spec", *GRID]) + "\n")
    for name in ("law", "second"):
        code, _, err = run("fit", str(table), "--law", "chinchilla", "--bootstrap", "20", "--out", str(tmp_path / f"{name}.json"))
        assert code == 0, err
    assert {"law.png", "law_second.png"} <= {path.name for path in (tmp_path / "figures").iterdir()}


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_every_law_that_was_looked_at_is_shown_with_what_it_leaves(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_bytes((Path(__file__).parents[2] / "sweeps" / "nature" / "runs.csv").read_bytes())
    code, out, _ = run("fit", str(table), "--bootstrap", "20", "--no-figures")
    scores = read_json(tmp_path / "law.json")["scores"]
    above, below = (" ".join(part.split()) for part in out.split("Laws by held-out error")[1].split("not tried on the slices:"))
    tried = [score for score in scores if score["held"]]
    assert code == 0 and 1 < len(tried) < len(scores)
    assert all(f"{score['law']} {score['params_kind']} {score['parameters']} {score['rms_percent']:.2f}" in above for score in tried)
    untried = {(score["law"], score["params_kind"]): f"{score['rms_percent']:.2f}" for score in scores if not score["held"]}
    first, second = below.split("N ")[1].split(")")[0].split("/")
    assert all(f"{law} {untried.get((law, first), '–')}/{untried.get((law, second), '–')}" in below for law, _ in untried)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_flagged_runs_are_named_with_the_reason(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    short = [f"{size}e7,{size}e6,5" for size in range(1, 13)]
    lines = [*GRID, "1e9,9e10,", *short]
    table.write_text("\n".join(["run_id,params_non_embedding,tokens_pt,loss_spec", *(f"r{number},{line}" for number, line in enumerate(lines))]) + "\n")
    code, _, err = run("fit", str(table), "--law", "chinchilla", "--bootstrap", "20", "--no-figures")
    names = [f"r{len(GRID) + 1 + number}" for number in range(len(short))]
    assert code == 0, err
    assert f"kept out of the fit: 1 run flagged diverged (the run diverged, or has no loss): r{len(GRID)}\n" in err
    many = f"12 runs flagged under_2_tokens_per_parameter ({FLAGS['under_2_tokens_per_parameter']})"
    assert f"kept out of the fit: {many}: {', '.join(names[:5])} and 7 more, listed in the law's file\n" in err
    assert read_json(tmp_path / "law.json")["source"]["flagged"] == {"under_2_tokens_per_parameter": names, "diverged": [f"r{len(GRID)}"]}

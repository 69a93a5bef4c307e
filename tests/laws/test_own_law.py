"""The law of one's own that the docs show works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from planner.laws import _from_file

ROOT = Path(__file__).parents[2]


def plan(*arguments: str, laws: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PLANNER_LAWS": str(laws)}
    return subprocess.run([sys.executable, "-m", "planner.cli.main", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "laws.md").read_text(encoding="utf-8"), re.S)
    assert code is not None
    path = tmp_path / "my_laws.py"
    path.write_text(code[1], encoding="utf-8")
    n, d = np.meshgrid(np.geomspace(1e5, 1e7, 5), np.geomspace(1e6, 1e9, 6))
    loss = 1.5 + 0.8 * (n / 1e6) ** -0.2 * (d / 1e7) ** -0.3
    rows = [f"{one:.6g},{two:.6g},{three:.9g}" for one, two, three in zip(n.ravel(), d.ravel(), loss.ravel(), strict=True)]
    (tmp_path / "theirs.csv").write_text("\n".join(["N,D,loss", *rows]) + "\n")
    return path


def test_the_law_of_the_docs_is_listed_fitted_and_found_again(own: Path, tmp_path: Path) -> None:
    listed = plan("laws", "product", "--json", laws=own, folder=tmp_path)
    assert json.loads(listed.stdout)[0]["name"] == "product", listed.stderr
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    fitted = plan("fit", "theirs.csv", "--law=product", *names, "--json", "--no-figures", "--bootstrap=20", laws=own, folder=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    values = {name: item["value"] for name, item in json.loads(fitted.stdout)["members"][0]["parameters"].items()}
    assert (values["E"], values["α"], values["β"]) == pytest.approx((1.5, 0.2, 0.3), rel=1e-4)
    asked = ("allocate", "--flops=1e16", "--spec-tokens=1M", "--law=law.json")
    # A product of powers has no best size of its own: without limits the smallest wins, far from all runs, and is refused.
    refused = plan(*asked, laws=own, folder=tmp_path)
    assert refused.returncode == 2 and "tokens per parameter" in refused.stderr and "--params" in refused.stderr
    assert plan(*asked, "--params=1M..10M", laws=own, folder=tmp_path).returncode == 0


STRAIGHT = """from planner.laws.base import Law, Parameter
def slope(name, high, start):
    return Parameter(name, 0.0, high, start, "nats/token", logarithmic=False, linear=True)
LAWS = (Law("straight", "a − b·ln N − c·ln D", (slope("a", 20, (1, 4)), slope("b", 2, (0.01, 0.5)), slope("c", 2, (0.01, 0.5))),
            lambda p, x: p["a"] - p["b"] * x.log_n - p["c"] * x.log_total, "here", "near the runs", stages=1),)
"""


def test_a_law_without_a_parameter_on_a_log_scale_is_fitted(own: Path, tmp_path: Path) -> None:
    """Nothing of it can double or halve, which a ridge is told by."""
    own.write_text(STRAIGHT, encoding="utf-8")
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    fitted = plan("fit", "theirs.csv", "--law=straight", *names, "--json", "--no-figures", "--bootstrap=20", "--profile", laws=own, folder=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    member = json.loads(fitted.stdout)["members"][0]
    assert member["parameters"]["b"]["value"] > 0 and not member["ridge"]


NUMPY = """import numpy as np
from planner.laws.base import Law, exponent
LAWS = (Law("mine", "e^(−α·ln N)", (exponent("α"),), lambda p, x: np.exp(-x.log_n * p["α"]), "here", "never", stages=1),)
"""

MADE = """from planner.laws.base import Law, Parameter, exponent, irreducible
from planner.laws.dual import log
LAWS = (Law("mine", "E + α·ln(ln N)", ({parameters}), lambda p, x: p["E"] + p["α"] * log(x.log_n), "here", "never", stages=1, target="{target}"),)
"""

CHANGES = """from planner.laws.base import Law, exponent, irreducible
from planner.laws.dual import exp
def formula(p, x):
    sum = {taken}
    sum += 0.1
    return sum + exp(-x.log_n * p["α"])
LAWS = (Law("mine", "E + N^−α", (irreducible(), exponent("α")), formula, "here", "never", stages=1),)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LAWS = 3", "cannot be read as laws"),
        ("LAWS = (1,)", "no Law"),
        ("1/0", "division by zero"),
        (NUMPY, "the formula of the law 'mine' fails"),
        (MADE.format(parameters='Parameter("E", 1, 2, (3, 4), ""), exponent("α")', target="spec"), "no range between its bounds"),
        (MADE.format(parameters='Parameter("E", 0, 2, (1, 2), ""), exponent("α")', target="spec"), "logarithmic=False"),
        (MADE.format(parameters='irreducible(), irreducible(), exponent("α")', target="spec"), "two parameters of the same name"),
        (MADE.format(parameters='irreducible(), exponent("α")', target="both"), "the loss spec or general"),
        (MADE.format(parameters='irreducible(), Parameter("α", 0.1, float("inf"), (1, 2), "")', target="spec"), "give finite bounds"),
        (NUMPY.replace('"mine"', '"auto"'), "named 'auto', which --law could not ask for"),
        (NUMPY.replace('"mine"', '"a,b"'), "named 'a,b', which --law could not ask for"),
        (NUMPY.replace('"mine"', "3"), "named 3, which --law could not ask for"),
        (MADE.format(parameters='irreducible(), exponent(7)', target="spec"), "a parameter is named 7"),
        (NUMPY.replace("stages=1", 'stages=1, plain={"A": ("N", "α")}'), "the law mine has 'A': ('N', 'α') as plain"),
        (NUMPY.replace("stages=1", 'stages=1, plain={"α": ("X", "α")}'), "the law mine has 'α': ('X', 'α') as plain"),
        (NUMPY.replace("stages=1", 'stages=1, interaction="γ"'), "the interaction of the law mine is 'γ', which is no parameter of it: α"),
        ("raise SystemExit(3)", "cannot be read as laws: 3"),
        (CHANGES.format(taken='p["E"]'), "gives another number when it is evaluated again"),
        (CHANGES.format(taken="x.repeats"), "gives another number when it is evaluated again"),
        (MADE.format(parameters='irreducible(), exponent("α"), exponent("β")', target="spec"), "does not use its parameter β; use it"),
        (STRAIGHT.replace("x.log_n", "(x.log_n - x.log_n.mean())"), "gives a run another loss when other runs are beside it"),
        (STRAIGHT.replace("x.log_n", "(x.log_pt - x.log_pt.min())"), "gives a run another loss when other runs are beside it"),
        (STRAIGHT.replace("x.log_n", "x.log_unique.mean()"), "gives a run another loss when other runs are beside it"),
    ],
)
def test_a_broken_file_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    result = plan("laws", laws=path, folder=tmp_path)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_a_parameter_for_some_runs_only_counts_as_used(tmp_path: Path) -> None:
    """As one that is asked for only where a run has no general tokens, no specialist ones, no repeats or no replay."""
    for lacking in ("x.pt", "x.has_spec", "x.repeats", "x.replay"):
        path = tmp_path / "mine.py"
        path.write_text(f"""from planner.laws.base import Law, amplitude, exponent, irreducible
from planner.laws.dual import exp
def formula(p, x):
    loss, lacking = p["E"] + exp(-x.log_n * p["α"]), {lacking} == 0
    return loss + p["A"] * lacking if lacking.any() else loss
LAWS = (Law("mine", "E + N^−α + A", (irreducible(), exponent("α"), amplitude("A")), formula, "here", "never"),)
""", encoding="utf-8")
        assert [law.name for law in _from_file(path)] == ["mine"]


def test_a_law_without_a_number_for_some_run_is_named_and_no_other_is_harmed(own: Path, tmp_path: Path) -> None:
    own.write_text(MADE.format(parameters='irreducible(), exponent("α")', target="spec"), encoding="utf-8")
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    fit = ("fit", "theirs.csv", *names, "--no-figures", "--bootstrap=20")
    refused = plan(*fit, "--law=mine", laws=own, folder=tmp_path)
    said = "the law mine gives no number for the run row"  # the logarithm of ln N/N0 is none below N0
    assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr
    others = plan(*fit, laws=own, folder=tmp_path)
    assert others.returncode == 0 and others.stderr.count(said) == 1, others.stderr


RAISES = """from planner.laws.base import Law, exponent, irreducible
def formula(p, x):
    if getattr(x.log_n, "value", x.log_n).shape[-1] > 5:
        raise ValueError("five runs are\\nthe most")
    return p["E"] + p["α"] * x.log_n
LAWS = (Law("mine", "E + α·ln N", (irreducible(), exponent("α")), formula, "here", "never", stages=1),)
"""


@pytest.mark.slow
def test_a_law_that_raises_on_these_runs_is_named_and_no_other_is_harmed(own: Path, tmp_path: Path) -> None:
    own.write_text(RAISES, encoding="utf-8")
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    fit = ("fit", "theirs.csv", *names, "--no-figures", "--bootstrap=20")
    refused = plan(*fit, "--law=mine", laws=own, folder=tmp_path)
    said = "the law mine cannot be computed for these runs (ValueError: five runs are the most)"
    assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr
    others = plan(*fit, laws=own, folder=tmp_path)
    assert others.returncode == 0 and others.stderr.count(said) == 1, others.stderr
    assert plan(*fit, "--law=chinchilla", laws=own, folder=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_plan_that_a_law_has_no_number_for_is_refused_with_where_it_lies(own: Path, tmp_path: Path) -> None:
    """A straight law falls below zero far out, and one that raises there is no better."""
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    raises = RAISES.replace("> 5", "> 40").replace("five", "forty").replace("p[\"α\"] * x.log_n", "exp(-x.log_n * p[\"α\"])")
    raises = raises.replace("import Law", "import Law, Parameter").replace("def formula", "from planner.laws.dual import exp\ndef formula")
    cases = (STRAIGHT, "straight", "the law straight gives no number for "), (raises, "mine", "cannot be computed here (ValueError: forty runs are")
    for text, law, said in cases:
        own.write_text(text, encoding="utf-8")
        fitted = plan("fit", "theirs.csv", f"--law={law}", *names, "--bootstrap=20", laws=own, folder=tmp_path)
        assert fitted.returncode == 0, fitted.stderr
        refused = plan("allocate", "--flops=1e22", "--law=law.json", "--allow-extrapolation", laws=own, folder=tmp_path)
        assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1 and not (tmp_path / "allocation.json").exists(), refused.stderr
        (tmp_path / "law.json").unlink()


def test_a_law_whose_parameters_are_others_now_does_not_read_an_older_fit(own: Path, tmp_path: Path) -> None:
    names = [f"--map={ours}={theirs}" for ours, theirs in (("params_non_embedding", "N"), ("tokens_pt", "D"), ("loss_spec", "loss"))]
    assert plan("fit", "theirs.csv", "--law=product", *names, "--no-figures", "--bootstrap=20", laws=own, folder=tmp_path).returncode == 0
    own.write_text(own.read_text(encoding="utf-8").replace('exponent("α"), exponent("β")', 'exponent("β"), exponent("α")'), encoding="utf-8")
    refused = plan("allocate", "--flops=1e16", "--law=law.json", "--params=1M..10M", laws=own, folder=tmp_path)
    assert refused.returncode == 2 and "product has other parameters now: E, A, β, α" in refused.stderr, refused.stderr


WITHOUT = """from planner.laws.base import Law, amplitude, exponent, irreducible
from planner.laws.dual import exp, log
LAWS = (Law("mine", "E + A·N^−α + B·D_pt^−β·e^(−γ·S)", (irreducible(), amplitude("A"), exponent("α"), amplitude("B"), exponent("β"), exponent("γ")),
            lambda p, x: p["E"] + p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-log(x.pt) * p["β"] - x.unique * p["γ"]), "here", "with a trunk"),)
"""


def test_a_law_that_is_infinite_without_general_tokens_is_not_said_to_pass_a_limit_that_nobody_set(tmp_path: Path) -> None:
    path = tmp_path / "my_laws.py"
    path.write_text(WITHOUT, encoding="utf-8")
    n, d, s = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 1e7, 5), np.geomspace(1e7, 1e9, 5), [0.0, 1e6, 4e6], indexing="ij"))
    loss = 1.5 + 0.8 * (n / 1e6) ** -0.2 + 0.8 * (d / 1e8) ** -0.3 * np.exp(-s / 1e7)
    rows = [f"{one:.0f},{two:.0f},{three:.0f},{three:.0f},{four:.9g}" for one, two, three, four in zip(n, d, s, loss, strict=True)]
    (tmp_path / "runs.csv").write_text("\n".join(["params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec", *rows]) + "\n")
    assert plan("fit", "runs.csv", "--law=mine", "--no-figures", "--bootstrap=20", laws=path, folder=tmp_path).returncode == 0
    asked = plan("allocate", "--flops=1e16", "--law=law.json", "--spec-tokens=4M", "--json", laws=path, folder=tmp_path)
    arm = next(arm for arm in json.loads(asked.stdout)["arms"] if arm["name"] == "specialist only")
    assert arm["plan"] is None and arm["note"] == "the law gives no finite loss for it", asked.stderr

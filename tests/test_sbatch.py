"""Options of sbatch: what may reach a batch script, and how long a job may take."""

import pytest

from planner.errors import InputError
from planner.sbatch import minutes, read_options


def test_options_are_read_as_sbatch_has_them() -> None:
    given = ["account=physics", "--mail_type=END,FAIL", "constraint=a100&ib", "comment=x=y", "time=1-12"]
    assert read_options(given, ()) == {"account": "physics", "mail-type": "END,FAIL", "constraint": "a100&ib", "comment": "x=y", "time": "1-12"}


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["account"], "'account' has no ="), (["a=b", "--a=c"], "a is given twice"), (["nodes=3"], "nodes=3 is set by the planner itself"),
        (["Account=x"], "'Account' is not an option"), (["comment="], "which is empty"), (["comment=$HOME"], r"holds '\$'"),
        (["time=1:00\n#SBATCH --uid=0"], r"holds '\\n'"), (["comment=a b"], "holds ' '"),
        (["comment='x'"], "holds \"'\""),
    ],
)  # fmt: skip
def test_what_no_script_should_hold_is_refused(pairs: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_options(pairs, ("nodes",))


@pytest.mark.parametrize(
    ("time", "expected"),
    [("120", 120), ("0:30", 1), ("90:00", 90), ("2:30:01", 151), ("1-0", 1440), ("1-12:30", 2190), ("2-00:00:10", 2881), ("007", 7)],
)
def test_a_time_limit_in_each_of_slurms_forms(time: str, expected: int) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["0", "", "1:2:3:4", "-5", "1h", "UNLIMITED", "0-0", "1-", "٣"])
def test_what_is_no_time_limit(time: str) -> None:
    with pytest.raises(InputError, match="is not a time limit"):
        minutes(time)

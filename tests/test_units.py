"""Counts and budgets as people write them."""

import pytest

from planner.errors import InputError
from planner.units import format_bytes, format_count, format_epochs, format_number, format_part, format_seconds, parse_count, parse_flops


@pytest.mark.parametrize(("text", "value"), [("5B", 5e9), ("20k", 2e4), ("1e22", 1e22), ("1,200,000", 1.2e6), (" 1.2M ", 1.2e6), ("3T", 3e12)])
def test_reads_counts(text: str, value: float) -> None:
    assert parse_count(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["-5", "nan", "five", "", "1e999", "5 B tokens"])
def test_refuses_what_is_no_count(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_count(text)
    assert repr(text) in str(caught.value)


def test_gpu_time_needs_a_throughput() -> None:
    assert parse_flops("3 GPU-days", flops_per_gpu_second=4e14) == pytest.approx(3 * 86400 * 4e14)
    with pytest.raises(InputError, match="throughput"):
        parse_flops("3 GPU-days")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e22 FLOPs", 1e22), ("1E22 FLOPS", 1e22), ("3 EFLOPs", 3e18), ("3EFLOP", 3e18), ("20 ZFLOPs", 2e22), ("10 YFLOP", 1e25), ("2 GPU-Hours", 7.2e15)],
)
def test_reads_budgets_as_people_write_them(text: str, value: float) -> None:
    assert parse_flops(text, flops_per_gpu_second=1e12) == pytest.approx(value, rel=1e-12)


def test_format_and_parse_agree() -> None:
    for value in (1.23e4, 4.56e6, 7.89e9, 1.5e12):
        assert parse_count(format_count(value)) == pytest.approx(value, rel=5e-3)


def test_times_beyond_all_reason_stay_short() -> None:
    assert format_seconds(86400 * 365.0) == "365.0 days" and format_seconds(1.7e26) == "1.97e+21 days"


def test_numbers_are_written_without_powers_below_a_million() -> None:
    found = [format_number(value) for value in (0.01234, 66.43, 999.6, 1930.0, 876123.0, 2.05e9)]
    assert found == ["0.0123", "66.4", "1,000", "1,930", "876,000", "2.05e+09"]
    assert [format_number(value, 2) for value in (5.64, 99.7, 114.0, 1040.0)] == ["5.6", "100", "110", "1,000"]


def test_what_is_nearly_all_is_not_rounded_to_it() -> None:
    assert [format_part(share) for share in (0.33, 0.994, 0.99933, 1.0)] == ["33 %", "99 %", "all but 0.067 %", "all"]


@pytest.mark.parametrize(("count", "text"), [(8.14e6, "8.14 MB"), (999.7e3, "1 MB"), (1.53e9, "1.53 GB"), (2.74e10, "27.4 GB"), (950, "950 B")])
def test_bytes_have_the_unit_in_which_they_are_short(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("value", "text"), [(1, "1 epoch"), (1.0004, "1 epoch"), (1.01, "1.01 epochs"), (0.5, "0.5 epochs"), (2310, "2,310 epochs")])
def test_epochs_are_counted_in_words(value: float, text: str) -> None:
    assert format_epochs(value) == text

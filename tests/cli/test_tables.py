"""Tables on terminals of any width: nothing is cut, and no number is broken."""

from __future__ import annotations

import pytest

from planner.cli import console, tables

COLUMNS = ["", "forecast loss (90 % interval)", "higher by", "size", "general + specialist", "note"]
ROWS = [
    ["no specialisation at all, whatever it costs", "5.067 (4.811 to 5.336)", "+122.96 %", "788k", "4.92M + 0", ""],
    ["50/50", "2.272 (2.158 to 2.467)", "+0.24 %", "954k", "2.02M + 2.02M", "not measured: no run of the table has any of it"],
]


@pytest.mark.parametrize("width", [52, 60, 80, 100, 160])
def test_every_number_is_whole_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    tables.table("What else the budget could buy", COLUMNS, ROWS, caption="higher by: than the recommendation, in the mean")
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= width and "…" not in text
    for cell in ("5.067 (4.811 to 5.336)", "2.272 (2.158 to 2.467)", "+122.96 %", "+0.24 %", "788k", "954k", "4.92M + 0", "2.02M + 2.02M"):
        assert cell in text, cell
    words = text.split()
    for word in ("whatever", "measured:", "recommendation,", "interval)", "specialist"):
        assert word in words, word


def test_what_fits_is_one_table_and_what_does_not_goes_below(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for width in (60, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        tables.table("title", COLUMNS, ROWS)
        counts[width] = sum("50/50" in line for line in capsys.readouterr().out.splitlines())
    assert counts[160] == 1 and counts[60] > counts[100] >= 1


@pytest.mark.parametrize("mark", ["* ", "  "])
def test_a_marked_name_is_whole(mark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = "multiplicative-penalised"
    for width in range(50, 130, 3):
        monkeypatch.setenv("COLUMNS", str(width))
        tables.table("laws", ["law", *(f"number {number}" for number in range(9))], [[mark + name, *["0.50"] * 9]])
        assert f" {mark}{name} " in capsys.readouterr().out, width


@pytest.mark.parametrize("width", [52, 60, 80, 160])
def test_a_part_below_has_no_empty_rows(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["size", "788k", "[700k, 800k]", "[600k, 900k]"], ["loss [nats/token]", "2.272", "2.158 to 2.467"], ["FLOPs of training", "1e13"], ["none"]]
    monkeypatch.setenv("COLUMNS", str(width))
    tables.table("title", ["", "recommended", "90 % interval", "within 0.5 % of the best loss"], rows)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    parts = sum("───" in line for line in lines)
    assert sum(line.startswith(" size") for line in lines) == parts and sum(line.startswith(" none") for line in lines) == 1
    assert sum(line.startswith(" FLOPs of") for line in lines) == 1 and (parts > 1) == (width < 80)
    assert all(any(text in line for line in lines) for row in rows for text in row)


@pytest.mark.parametrize("said", ["", "0", "wide", "-5"])
def test_without_a_width_there_is_room_for_all(said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", said)
    tables.table("title", COLUMNS, ROWS)
    assert sum("50/50" in line for line in capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_a_sliver_is_no_error(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    tables.table("title", COLUMNS, ROWS)


def test_short_rows_end_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tables.table("title", ["a", "b", "c"], [["x", "1"], ["y", "2", "3"]])
    assert ["x", "1"] in [line.split() for line in capsys.readouterr().out.splitlines()]


HOSTILE = "\x1b[31mred\x07\u202e\ud800 [bold]x[/bold] [/home] :car:"
LEGIBLE = r"\x1b[31mred\x07\u202e\ud800 [bold]x[/bold] [/home] :car:"


def test_names_from_tables_are_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    tables.table(HOSTILE, ["", "b"], [[HOSTILE, HOSTILE]], caption=HOSTILE)
    console.say(HOSTILE)
    text = capsys.readouterr()
    assert text.out.count(LEGIBLE) == 4 and text.err == LEGIBLE + "\n"


def test_progress_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with console.bar(HOSTILE, 1.0) as shown:
        shown.update(0.5, HOSTILE)
        shown.line(HOSTILE)
    text = capsys.readouterr()
    assert (text.out + text.err).count(LEGIBLE) >= 3 and "\x07" not in text.out + text.err

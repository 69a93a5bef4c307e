"""The pages made from the code are up to date and whole, and links in the docs lead somewhere."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest

from planner.corpus.config import Source, TokenizerSettings
from planner.design import axes, spec
from planner.recipe import Recipe

ROOT = Path(__file__).parents[1]


def test_pages_made_from_the_code_are_up_to_date() -> None:
    found = importlib.util.spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for name, text in (("answers", module.answers()), ("settings", module.settings())):
        assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == text, "run python docs/make_pages.py"


def test_every_setting_that_is_read_is_on_its_page() -> None:
    told = set(re.findall(r"^\| `(\w+)` ", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), re.M))
    read = (spec._KEYS - {"grid", "cell", "recipe"}) | set(axes.AXES) | axes._CELL_KEYS | {item.name for item in fields(Recipe)}
    assert told == read | {item.name for group in (Source, TokenizerSettings) for item in fields(group)} | {
        "heldout_fraction", "heldout_tokens_max", "near_duplicates", "near_duplicate_threshold", "template",
    }  # fmt: skip


def test_modules_that_are_named_exist() -> None:
    files = [*ROOT.glob("*.md"), *(path for folder in ("docs", "planner", "benchmarks", "sweeps", "examples") for path in (ROOT / folder).glob("**/*.*"))]
    for path in files:
        if path.suffix not in (".md", ".py", ".toml", ".ipynb") or path.name == "LOG.md":  # which tells of modules of the past
            continue
        for named in re.findall(r"`(planner(?:\.\w+)+)`", path.read_text(encoding="utf-8")):
            parts = named.split(".")
            places = [ROOT.joinpath(*parts[:end]) for end in (len(parts), len(parts) - 1)]  # the last part may be a name inside a module
            assert any(place.with_suffix(".py").is_file() for place in places) or places[0].is_dir(), f"{path}: {named}"


PAGES = sorted([ROOT / "README.md", *(path for folder in ("docs", "sweeps", "examples") for path in (ROOT / folder).glob("**/*.md"))])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        place = page.parent / target if target else page
        assert place.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, f"{target}#{heading}"

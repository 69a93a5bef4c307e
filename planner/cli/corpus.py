"""`plan corpus`: text to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.console import application, bar, give, say
from planner.cli.tables import table
from planner.units import format_count

app = application("Build a corpus of a general domain and specialist domains, or inspect one.")


@app.command("build", help="Build a corpus from corpus.toml.\n\nExample: plan corpus build sweeps/medicine/corpus.toml --out sweeps/medicine/corpus")
def build(
    settings: Annotated[Path, typer.Argument(help="corpus.toml, or the folder that holds it.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default 'corpus' beside corpus.toml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again, replacing even a corpus of other settings or sources.")] = False,
) -> None:
    """Build a corpus."""
    from planner.corpus.build import build_corpus
    from planner.corpus.config import read_settings

    wanted = read_settings(settings)
    folder = out or wanted.folder / "corpus"
    with bar("corpus", 1.0) as shown:
        corpus, new = build_corpus(wanted, folder, force=force, progress=lambda what, share: shown.update(share, what))
    say(f"{'built' if new else 'already there'}: {folder}")
    show(corpus)


@app.command("inspect", help="Show what a corpus holds.\n\nExample: plan corpus inspect sweeps/medicine/corpus")
def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder that plan corpus build wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a corpus."""
    from planner.corpus import Corpus

    corpus = Corpus.open(folder)
    if as_json:
        give(corpus.account)
    else:
        show(corpus)


def show(corpus: Any) -> None:
    """Print a corpus as a table."""
    columns = ["domain", "documents", "distinct tokens", "held-out tokens", "bytes/token", "exact copies", "near copies", "contaminated"]
    rows = []
    for name in corpus.domains:
        entry = corpus.account["domains"][name]
        rows.append(
            [
                name, format_count(entry["documents_train"]), format_count(entry["tokens_train"]), format_count(entry["tokens_heldout"]),
                f"{corpus.bytes_per_token(name):.2f}", entry["duplicates_exact"], entry["duplicates_near"],
                f"{entry['heldout_contaminated']} of {entry['documents_heldout']}",
            ]
        )  # fmt: skip
    caption = (
        f"vocabulary {corpus.vocab_size}; fingerprint {corpus.fingerprint}\n"
        "contaminated: held-out documents that share 13 words in a row with training text"
    )
    table(f"Corpus {corpus.folder}", columns, rows, caption=caption)

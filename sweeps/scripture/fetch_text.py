"""Fetch the text of this sweep: freely licensed Debian packages, as JSON Lines of documents.

Needs apt and dpkg; writes text/*.jsonl beside this file, which git ignores. Run it once before `plan corpus build`. The two general
packages are read as for the sweep `medicine`; the specialist text is

    bible-kjv-text  the King James Bible (1611, public domain), which the program in bible-kjv prints

One chapter is one document, one verse a line, without the numbers of verses.
"""

import importlib.util
import json
import re
import subprocess
import tempfile
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "text"
ALL = "Gen1:1-Rev22:21"


def chapters(printed: str) -> list[str]:
    """Split lines such as "Ge1:1 In the beginning …" into chapters."""
    verses = [re.fullmatch(r"(\S+):\d+ (.*)", line.strip()) for line in printed.splitlines() if line.strip()]
    found = [(verse[1], verse[2]) for verse in verses if verse is not None]
    return ["\n".join(text for _, text in group) for _, group in groupby(found, key=lambda verse: verse[0])]


def main() -> None:
    specification = importlib.util.spec_from_file_location("medicine_text", HERE.parent / "medicine" / "fetch_text.py")
    assert specification is not None and specification.loader is not None
    general = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(general)
    general.OUT = OUT
    general.main()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        for package in ("bible-kjv", "bible-kjv-text"):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
            subprocess.run(["dpkg-deb", "-x", str(next(Path(folder).glob(f"{package}_*.deb"))), str(root)], check=True)
        program = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "-f", ALL]
        documents = chapters(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    with (OUT / "bible-kjv.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
    print(f"bible-kjv: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()

"""Fetch the text of this sweep: three freely licensed Debian packages, as JSON Lines of documents.

Needs apt and dpkg; writes text/*.jsonl beside this file, which git ignores. Run it once before `plan corpus build`. The two general
packages are read as for the sweep `medicine`; the specialist package is

    dict-foldoc  the Free On-line Dictionary of Computing (GFDL)

One entry is one document, with its headword on a line of its own as in the encyclopaedia summaries. Cross-reference braces, subject tags,
addresses and edit dates are removed; entries with fewer than 60 characters left (mere references) are skipped.
"""

import gzip
import importlib.util
import json
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "text"
MINIMUM_CHARACTERS = 60


def computing(root: Path) -> list[str]:
    text = gzip.decompress((root / "usr/share/dictd/foldoc.dict.dz").read_bytes()).decode("utf-8", "replace")
    documents = []
    for entry in re.split(r"\n\n(?=[^\s{])", text):
        headword, _, body = entry.partition("\n")
        if headword.startswith("00-database"):
            continue
        paragraphs = [cleaned(paragraph) for paragraph in body.partition("\n   ")[2].split("\n\n")]
        definition = "\n".join(paragraph for paragraph in paragraphs if any(map(str.isalpha, paragraph)))
        if len(definition) >= MINIMUM_CHARACTERS:
            documents.append(f"{' '.join(headword.split('%%%')[0].split())}\n{definition}")
    return documents


def cleaned(paragraph: str) -> str:
    text = " ".join(paragraph.split())
    text = re.sub(r"^<[a-z ,/-]+> ", "", text)
    text = re.sub(r"\{([^{}()]*?) ?\((?:https?|ftp|news|mailto|/)[^{}]*\)\}", r"\1", text)
    text = re.sub(r"<?\b(?:https?|ftp)://\S+|<\S+@\S+>|\(\d{4}-\d\d-\d\d\)", "", text)
    return " ".join(re.sub(r"[{}]", "", text).split())


def main() -> None:
    specification = importlib.util.spec_from_file_location("medicine_text", HERE.parent / "medicine" / "fetch_text.py")
    assert specification is not None and specification.loader is not None
    general = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(general)
    general.OUT = OUT
    general.main()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-qq", "dict-foldoc"], cwd=folder, check=True)
        archive = next(Path(folder).glob("dict-foldoc_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(Path(folder) / "foldoc")], check=True)
        documents = computing(Path(folder) / "foldoc")
    with (OUT / "dict-foldoc.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
    print(f"dict-foldoc: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()

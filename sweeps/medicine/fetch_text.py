"""Fetch the recorded sweep's further general text: two freely licensed Debian packages, as JSON Lines of documents.

Needs apt and dpkg; writes text/*.jsonl beside this file, which git ignores. Run it once before `plan corpus build`.

    dict-gcide   the GNU Collaborative International Dictionary of English (GPL-3; Webster 1913 is in the public domain)
    anarchism    "An Anarchist FAQ" (GFDL or GPL)
"""

import gzip
import html.parser
import json
import re
import subprocess
import tempfile
from pathlib import Path

OUT = Path(__file__).parent / "text"
DOCUMENT_CHARACTERS = 2500


class Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def grouped(paragraphs: list[str]) -> list[str]:
    documents, now = [], ""
    for paragraph in paragraphs:
        now += paragraph + "\n"
        if len(now) > DOCUMENT_CHARACTERS:
            documents.append(now)
            now = ""
    return documents


def dictionary(root: Path) -> list[str]:
    text = gzip.decompress((root / "usr/share/dictd/gcide.dict.dz").read_bytes()).decode("utf-8", "replace")
    entries = re.split(r"\n(?=\S)", re.sub(r"\n\s*\[[^\]]*\]", "", text))
    return grouped([" ".join(entry.split()) for entry in entries if len(entry) > 40])


def faq(root: Path) -> list[str]:
    documents = []
    for path in sorted((root / "usr/share/doc/anarchism/html").glob("*.html")):
        parser = Text()
        parser.feed(path.read_text("utf-8", "replace"))
        blocks = re.split(r"\n\s*\n", "".join(parser.parts))
        documents += grouped([" ".join(block.split()) for block in blocks if len(block) > 40])
    return documents


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for package, read in (("dict-gcide", dictionary), ("anarchism", faq)):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
            archive = next(Path(folder).glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(archive), str(Path(folder) / package)], check=True)
            documents = read(Path(folder) / package)
            with (OUT / f"{package}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
            print(f"{package}: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()

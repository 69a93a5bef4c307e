"""Fetch the text of this sweep: two freely licensed Debian packages, as JSON Lines of documents.

Needs apt and dpkg; writes text/*.jsonl beside this file, which git ignores. Run it once before `plan corpus build`. The packages are those of the
sweep `medicine`, read in the same way. The dictionary's (dict-gcide) entries marked as zoology, botany, biology or palaeontology are the
specialist text; the rest stays general. So both have the same editors, years and style, and differ in subject only.
"""

import importlib.util
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "text"
MARK = re.compile(r"\((?:Zool|Zo\[\"o\]l|Bot|Biol|Paleon)\.\)")
HEAD = 160
"""Characters at the start of an entry within which its mark must be; later marks belong to secondary senses."""


def main() -> None:
    specification = importlib.util.spec_from_file_location("medicine_text", HERE.parent / "medicine" / "fetch_text.py")
    assert specification is not None and specification.loader is not None
    general = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(general)
    general.OUT = OUT
    general.main()
    path = OUT / "dict-gcide.jsonl"
    documents = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    entries = [entry for document in documents for entry in document.split("\n") if entry]
    nature = [bool(MARK.search(entry[:HEAD])) for entry in entries]
    for name, wanted in (("nature", True), ("dict-gcide", False)):
        texts = general.grouped([entry for entry, found in zip(entries, nature, strict=True) if found is wanted])
        with (OUT / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        print(f"{name}: {len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()

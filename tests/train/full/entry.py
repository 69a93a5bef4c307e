"""A rank in tests: the planner's own main, with faults. torchrun starts it as a program."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from planner.train.full.main import main
from tests.train.full.faults import install


def rank(folder: Path, faults: dict[str, Any], environment: dict[str, str]) -> None:
    """Be the rank that the environment names, in a process that was forked for it."""
    os.environ.update(environment)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    install(faults)
    sys.exit(main([str(folder)]))


if __name__ == "__main__":
    install(json.loads(sys.argv[2]))
    sys.exit(main([sys.argv[1]]))

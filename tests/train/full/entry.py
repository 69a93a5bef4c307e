"""What torchrun starts in tests: the planner's own main, with faults."""

import json
import sys

from planner.train.full.main import main
from tests.train.full.faults import install

if __name__ == "__main__":
    install(json.loads(sys.argv[2]))
    sys.exit(main([sys.argv[1]]))

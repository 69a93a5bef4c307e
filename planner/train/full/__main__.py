"""`python -m planner.train.full FOLDER`."""

import sys

from planner.train.full.main import main

if __name__ == "__main__":
    sys.exit(main())

# make test sets up an environment of its own and passes the tests.
PYTHON ?= python3

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install --quiet --disable-pip-version-check -e ".[train,dev]"
	touch $@

.PHONY: test
test: .venv-test/ready
	.venv-test/bin/ruff check planner tests
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest

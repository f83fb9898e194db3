# make quickstart   install into .venv and run the quickstart sweep
# make test         install with the test extras, and run every test but those of the next two
# make test-faults  kills, cuts, full disks, nodes that come and go, and faults at random: about 15 minutes
# make test-stages  every stage of benchmarks/one_gpu.py, in its smallest size: minutes
# make test-cluster a real cluster over ssh, on three hosts made of namespaces: needs root, skips where it cannot
PYTHON ?= python3
BIN := .venv/bin
INSTALL = PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet

.PHONY: quickstart test test-faults test-stages test-cluster lint audit

quickstart: .venv/installed
	$(BIN)/python -m raybench.sweep space=quickstart

test: .venv/installed-test lint audit
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not faults"

test-faults: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m faults

test-stages: .venv/installed-test
	RAYBENCH_TEST_STAGES=1 $(BIN)/python -m pytest tests/benchmarks/test_one_gpu.py

test-cluster: .venv/installed-test
	RAYBENCH_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster/test_ray_up.py

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: .venv/installed-test
	.ci/audit

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("raybench needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[run]'
	touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) --editable '.[test]'
	touch $@

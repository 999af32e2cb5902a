# The only two commands a newcomer needs: `make run` and `make test`. Both need Python 3.11 or later, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test soak bench clean

run: $(VENV)/ready
	$(BIN)/luna serve

test: $(VENV)/ready-to-test
	scripts/check

# --clear, because an installation that was interrupted cannot be gone on with.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Luna needs Python 3.11 or later, and '$(PYTHON)' is older or does not run here."; \
		echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing Luna into $(VENV), once; this takes up to a minute ..."
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/ready-to-test: $(VENV)/ready
	@echo "Installing what the tests need, once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

# The tests of faults, of clients and the fuzz tests in their long form, with the figures of docs/reliability.md; takes about half an
# hour, and nothing else should run.
soak: $(VENV)/ready-to-test
	LUNA_SOAK=1 $(BIN)/pytest -s tests/faults tests/fuzz tests/polyglot

# All of it takes half an hour and writes bench/RESULTS.md; `make bench ONLY=quick` or ONLY=P3 shows a part. Needs wrk, h2load and
# taskset (Debian: wrk nghttp2-client util-linux), and two cores with nothing else on them; etcd-server for the comparison with it.
bench: $(VENV)/ready-to-bench
	$(BIN)/python -m bench $(ONLY)

$(VENV)/ready-to-bench: $(VENV)/ready-to-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-protos .mypy_cache .pytest_cache .ruff_cache .hypothesis

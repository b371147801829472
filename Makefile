# `make train` and `make test` set everything up by themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
UV := uv==0.13.9
# Some machines forbid Python to write bytecode: each of the hundreds of processes below would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train quick test check mutants chaos proofs hostile names audit bench bench-accuracy bench-sweep bench-words bench-gpu lock clean
train: $(READY)
	$(BIN)/lab train experiment=digits

# A file of tests stays in one process, so that its runs are trained once. The long files come first.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
FAST := tests/contracts tests/unit

# After each change: tests/unit and tests/contracts, which train no run. About a minute on two cores.
quick: $(READY)
	$(PYTEST) $(FAST)

# All tests: also tests/runs (runs in one process) and tests/system (commands, processes, servers). Minutes.
test: $(READY)
	$(PYTEST) tests/system tests/runs $(FAST)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) tests/system tests/runs $(FAST)

# Whether the tests notice bugs that cause no error. Six minutes.
mutants: $(READY)
	$(BIN)/python tests/chaos/mutants.py

# Kills, signals, faults and full disks. A quarter of an hour.
chaos: $(READY)
	$(BIN)/python tests/chaos/kill.py

# The tasks of tests/contracts are killed at three batches, in one process and in two: a quarter of an hour.
proofs: $(READY)
	$(BIN)/python tests/chaos/kill.py proofs

# Every file of a run's folder replaced by a link and by garbage, for every verb: most of an hour.
hostile: $(READY)
	$(BIN)/python tests/chaos/hostile.py

# Names of every kind for folders, files, classes and runs: a quarter of an hour.
names: $(READY)
	$(BIN)/python tests/chaos/names.py

# Known vulnerabilities of the pinned packages. With --strict, a package that cannot be looked up is a failure.
audit: $(READY)
	@$(BIN)/uvx -q pip-audit@2.10.1 --strict --disable-pip --require-hashes -r requirements.lock || \
		{ echo "audit: failed; it needs a network"; exit 1; }

# Ratios to something measured in the same run, in bench/*.md; bench/history.md has the last runs. On a CPU: under 12
# minutes; the baseline CNN's accuracy: an hour.
bench: $(READY)
	$(BIN)/python bench/bench.py cpu

bench-accuracy: $(READY)
	$(BIN)/python bench/bench.py accuracy

bench-sweep: $(READY)
	$(BIN)/python bench/bench.py sweep

bench-words: $(READY)
	$(BIN)/python bench/words.py language_id

bench-gpu: $(READY)
	$(BIN)/python bench/bench.py gpu

# Pin the newest versions in the ranges of pyproject.toml, with their hashes.
lock: $(READY)
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade -o requirements.lock

clean:
	rm -rf .venv dist .*_cache

# uv, if it can be installed: pip takes five times as long for the same packages.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("lab needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if $(BIN)/pip install -q $(UV) 2>/dev/null; then \
		echo "installing with uv"; \
		export VIRTUAL_ENV=.venv; \
		$(BIN)/uv pip install -q --require-hashes -r requirements.lock && $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .; \
	else \
		echo "installing with pip: a minute or two"; \
		$(BIN)/pip install -q --require-hashes -r requirements.lock && $(BIN)/pip install -q --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

# Works on a machine with nothing but Python 3.11, make and a package registry.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Two at a time, a file by one of them, the longest (end to end) first: tests spend half their time in waiting for processes.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup run test test-long test-faults test-stack test-matrix fuzz coverage lint bench clean

setup: $(STAMP)

# The lock is a whole resolution but for torchvision, which onnx2torch asks for and does not need here, and of which none goes with
# the lock's torch (see infra/docs/installing.md): so --no-deps.
$(STAMP): infra/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "error: make setup needs Python 3.11 as $(PYTHON): install it, or give PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r infra/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	$(BIN)/ts4s retrain --name demo

test: setup
	$(BIN)/python -m pytest $(TWO)

test-long: setup
	$(BIN)/python -m pytest -m long

# POINTS=n SEED=s: the points 0 .. n-1 of a seed that tests/faults/results.json does not have yet, and no other fault test;
# OF=connect_points: those over Spark Connect, in connect_results.json.
OF ?= fault_matrix
test-faults: setup
	FAULT_POINTS=$(POINTS) FAULT_SEED=$(SEED) $(BIN)/python -m pytest -v -m faults $(if $(POINTS),tests/faults/test_$(OF).py,tests)
	$(BIN)/python infra/results_table.py

# Prefect, a Spark cluster and an S3 server as separate processes, and a browser where chromium is installed.
test-stack: setup
	$(BIN)/python -m pytest -v -m stack

# SPARK=3.5 PYTHON=3.12: another Spark beside the installed libraries, another Python with all resolved anew; made once, in $(VENV)/matrix.
test-matrix:
	@test -x $(BIN)/python || { echo "error: make test-matrix needs the environment of make setup: run that first" >&2; exit 2; }
	$(BIN)/python infra/test_matrix.py $(if $(SPARK),--spark $(SPARK)) $(if $(filter 3.%,$(PYTHON)),--python $(PYTHON)) --keep

# TARGETS="tsv onnx": only these; inputs and findings are kept in .fuzz/, figures in infra/fuzz/results.json.
MINUTES ?= 10
fuzz: setup
	$(BIN)/python infra/fuzz/fuzz.py --minutes $(MINUTES) $(if $(TARGETS),--targets $(TARGETS))
	$(BIN)/python infra/results_table.py

# Lines of ts4s_core that tests run, in all processes that they start. TESTS=tests/unit/data or MARK=long add to what was
# measured before; without them the measurement begins anew.
coverage: setup
	$(if $(MARK)$(TESTS),,$(BIN)/python -m coverage erase)
	$(BIN)/python -m coverage run -m pytest $(TWO) $(if $(MARK),-m $(MARK)) $(TESTS)
	$(BIN)/python -m coverage combine --append --quiet
	$(BIN)/python -m coverage report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# About four hours; each writes its figures, the command and the machine into a JSON file beside it, and the table of results is made anew.
BENCH := $(BIN)/python infra/benchmarks
BENCH_STORE := $(CURDIR)/$(VENV)/bench
bench: setup
	$(BENCH)/training_speed.py --size S --shards 2
	$(BENCH)/training_speed.py --size S --shards 2 --against ddp
	$(BENCH)/training_speed.py --size S --shards 2 --attention-dropout 0.1 --steps 10 --against padded
	$(BENCH)/training_speed.py --size S --shards 2 --attention-dropout 0.1
	$(BENCH)/training_speed.py --size S --shards 4 --against plain plain-library ddp job-per-step padded
	$(BENCH)/training_speed.py --size S --shards 8
	$(BENCH)/training_speed.py --size B --shards 2 --steps 8 --against plain plain-library ddp
	$(BENCH)/exactness_price.py --size S
	$(BENCH)/checkpoint_price.py --size S
	rm -rf $(BENCH_STORE)
	$(BENCH)/plan_accuracy.py --store $(BENCH_STORE)
	$(BENCH)/compile_gain.py --store $(BENCH_STORE) --name plan --steps 24
	$(BENCH)/strategies.py --store $(BENCH_STORE) --small --max-length 48 --max-rows 2000 --frequencies 10
	$(BENCH)/training_memory.py
	$(BENCH)/store_throughput.py --mib 1024 --to infra/benchmarks/store_throughput.json
	$(BENCH)/prediction_speed.py --model tiny --rows 1000000 --memory 100
	$(BENCH)/prediction_speed.py --model minilm --rows 50000
	$(BENCH)/language_model_quality.py
	$(BENCH)/language_training.py
	$(BENCH)/text_throughput.py --megabytes 1000
	$(BIN)/python infra/results_table.py

clean:
	rm -rf $(VENV) build *.egg-info

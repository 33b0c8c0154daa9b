# Every target sets up what it needs; nothing has to be installed by hand but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS := build/clients
OLD_TRITON := build/triton-3.6

.PHONY: run test check lint format types imports kernels nightly nightly-triton nightly-llama-cpp nightly-clients nightly-lm-eval chaos bench bench-cpu bench-gpu perplexity clean

run: $(STAMP)
	@exec $(BIN)/tramontane serve --port $${PORT:-8080}

# The C++ kernels first: they take a minute to compile, and no test is to wait for that.
test: $(STAMP)
	$(BIN)/python -c "from kernels.cpu.native.bindings import load_library; load_library()"
	$(BIN)/python -m pytest

check: lint types imports test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

# Compiles the GPU kernels for four architectures, and reads what came out; needs no GPU. Some minutes,
# seconds once build/triton has it all. KERNELS="90 --all" asks for one architecture and every format.
kernels: $(STAMP)
	PYTHONPATH=. TRITON_INTERPRET=0 TRITON_CACHE_DIR=build/triton $(BIN)/python tests/kernels/compile_for_gpu.py $(KERNELS)

nightly: $(STAMP)
	$(BIN)/python -m pytest -m nightly
	SCHEMATHESIS_EXAMPLES=1000 $(BIN)/python -m pytest tests/api/test_schemathesis.py

# The kernels in the interpreter of the oldest Triton that we take; `make test` has the newest.
nightly-triton: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLD_TRITON) triton==3.6.0
	PYTHONPATH=$(OLD_TRITON) $(BIN)/python -c "import triton; assert triton.__version__ == '3.6.0', triton.__version__"
	PYTHONPATH=$(OLD_TRITON) $(BIN)/python -m pytest tests/kernels

# Builds llama.cpp the first time: it takes a C++ compiler and a quarter of an hour.
nightly-llama-cpp: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,llama-cpp]'
	$(BIN)/python -m pytest -m nightly $(wildcard tests/engine/*/test_llama_cpp*.py)

# instructor wants an older openai than ours; openai for Node.js is left out where there is no npm.
# -W: the clients leave sockets open.
nightly-clients: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,clients]'
	$(PYTHON) -m venv $(CLIENTS)/instructor
	$(CLIENTS)/instructor/bin/python -m pip install --quiet --disable-pip-version-check 'instructor>=1.17,<2'
	if command -v npm; then npm install --silent --no-audit --no-fund --prefix $(CLIENTS)/npm 'openai@7'; fi
	INSTRUCTOR_PYTHON=$(CLIENTS)/instructor/bin/python \
	OPENAI_NPM=$$(if test -d $(CLIENTS)/npm; then echo $(CLIENTS)/npm; fi) \
	$(BIN)/python -m pytest -m nightly -W ignore tests/e2e/clients

nightly-lm-eval: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,lm-eval]'
	$(BIN)/python -m pytest -m nightly -W ignore tests/e2e/clients/test_lm_eval.py

chaos: $(STAMP)
	CHAOS_SIZE=full $(BIN)/python -m pytest tests/chaos tests/deploy/test_chaos.py -m "not gpu" --timeout 900

bench: export PYTHONPATH := .
bench: $(STAMP)
	$(BIN)/python tests/bench/relay.py --out tests/bench/results/relay.jsonl
	$(BIN)/python tests/bench/recovery.py --out tests/bench/results/recovery.jsonl
	$(BIN)/python tests/bench/load.py --out tests/bench/results/load.jsonl
	$(BIN)/python tests/bench/masks.py --out tests/bench/results/masks.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/host.py --out tests/bench/results/host.jsonl

# Builds llama.cpp the first time, as nightly-llama-cpp does.
bench-cpu: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,llama-cpp,mistralrs]'
	$(BIN)/python tests/bench/cpu.py --out tests/bench/results/cpu.jsonl

# On a machine with an NVIDIA GPU; under nine minutes.
bench-gpu: $(STAMP)
	$(BIN)/python tests/bench/gpu.py --out tests/bench/results/gpu.json

perplexity: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,llama-cpp]'
	$(BIN)/python tests/bench/perplexity.py --directory build/perplexity --out tests/bench/results/perplexity.jsonl

clean:
	rm -rf $(VENV) build dist *.egg-info

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

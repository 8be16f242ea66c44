# Most targets call the command line once (`mllm-eval --help`). The first target that needs .venv makes it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup filter plan weights data train eval probe export score table report subset compare leaks align check gpu-check gpu-wheels mini-weights lint test test-fast test-long test-lowest faults fuzz peers audit bench clean

PYTHON ?= python3
# Torch is installed from pip's own index, in the version of constraints.txt. PyPI's only build for Linux has CUDA; it runs
# on GPUs and CPUs and takes about 4 GB more, nearly all of it NVIDIA's libraries. Without a GPU, TORCH_INDEX=cpu installs
# the CPU build of pytorch.org, which gives the same numbers on a CPU. Other values are another build of pytorch.org, such as
# cu128, or the address or folder of another index. The index must have the pinned version for this Python.
TORCH_INDEX ?=
TORCH_FROM = $(if $(findstring /,$(TORCH_INDEX)),$(TORCH_INDEX),https://download.pytorch.org/whl/$(TORCH_INDEX))
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt
BIN := .venv/bin
RUN := $(BIN)/mllm-eval
READY := .venv/.installed
OPTIONS = $(if $(RECIPE),--recipe $(RECIPE)) $(if $(LLM),--llm $(LLM)) $(if $(SEED),--seed $(SEED))
# LAUNCH=slurm accepts all of these variables, torchrun and deepspeed only PROCESSES.
LAUNCHED = $(if $(LAUNCH),--launch $(LAUNCH)) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(NODES),--nodes $(NODES)) \
	$(if $(GPUS),--gpus $(GPUS)) $(if $(CPUS),--cpus $(CPUS)) $(if $(HOURS),--hours $(HOURS)) \
	$(if $(PARTITION),--partition $(PARTITION)) $(if $(ACCOUNT),--account $(ACCOUNT)) $(if $(QOS),--qos $(QOS))
ASKED = $(OPTIONS) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) $(if $(BLIND),--blind) $(if $(SUBSET),--subset $(SUBSET))

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv: once, a few minutes, about 2.5 GB, with CUDA 6.5 GB. One dot a package:"
	@echo "torch: $(if $(TORCH_INDEX),from $(TORCH_FROM),from pip's own index; PyPI's build for Linux has CUDA, for GPUs, and takes 4 GB more: TORCH_INDEX=cpu takes the build without)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv .venv
	@$(if $(TORCH_INDEX),$(PIP) --quiet --no-deps --index-url $(TORCH_FROM) torch || { echo "TORCH_INDEX: $(TORCH_FROM) gave no $$(grep ^torch= constraints.txt) for $$($(BIN)/python -V); without TORCH_INDEX it comes from pip's own index" >&2; exit 2; },:)
	@$(PIP) -e ".[model,train,report,leaks,dev]" 2> >(grep -v "^WARNING:" >&2) | awk '/^ *(Collecting|Building|Installing)/ { printf "."; fflush() } END { print "" }'
	@$(BIN)/python -c "$$TORCH_SAID"
	@touch $@

# This reads torch's metadata instead of importing torch, which takes seconds.
define TORCH_SAID
from importlib.metadata import distributions, version
cuda = any(str(one.name).startswith("nvidia-") for one in distributions())
print("torch", version("torch"), "with CUDA; without a GPU: rm -r .venv && make setup TORCH_INDEX=cpu" if cuda else "without CUDA")
endef
export TORCH_SAID

setup: $(READY) ## install all packages in pinned versions into .venv: [PYTHON=python3.12 TORCH_INDEX=cpu]

plan: $(READY) ## estimate memory, FLOPs, hours and cost of a run: ENCODER=mini-dino [RECIPE= LLM= GPUS=8xH100 MFU=0.4 PRICE=2.5]
	@$(RUN) plan $(ENCODER) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(LLM),--llm $(LLM)) $(if $(GPUS),--gpus $(GPUS)) $(if $(MFU),--mfu $(MFU)) $(if $(PRICE),--price $(PRICE))

weights: $(READY) ## download weights, check and lock them: ENCODER= LLM= | MODEL=owner/name [FROM=folder OFFLINE=1]
	@$(RUN) weights $(ENCODER) $(if $(LLM),--llm $(LLM)) $(if $(MODEL),--model $(MODEL)) $(if $(FROM),--from $(FROM)) $(if $(OFFLINE),--offline)

data: $(READY) ## render or download data, check and lock them: RECIPE=mini | PROBE=in1k_linear | [BENCHMARKS=a,b DATA=hub FROM=folder OFFLINE=1]
	@$(RUN) data $(BENCHMARKS) $(if $(PROBE),--probe $(PROBE)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(DATA),--data $(DATA)) $(if $(FROM),--from $(FROM)) $(if $(OFFLINE),--offline)

train: $(READY) ## train projector and LLM for an encoder, ask no benchmark: ENCODER=mini-dino [RECIPE= LLM= SEED= LAUNCH=torchrun PROCESSES=2]
	@$(RUN) train $(ENCODER) $(OPTIONS) $(LAUNCHED)

eval: $(READY) ## train, answer, score, and print the row of the table: ENCODER=mini-dino | MODEL=folder [RECIPE= LLM= SEED= BENCHMARKS=a,b BLIND=1 SUBSET=1000 LAUNCH=torchrun]
	@$(RUN) eval $(if $(MODEL),--model $(MODEL) $(if $(DATA),--data $(DATA)) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) $(if $(BLIND),--blind) $(if $(SUBSET),--subset $(SUBSET)),$(ENCODER) $(ASKED)) $(LAUNCHED)

probe: $(READY) ## train simple heads on frozen features (classification, segmentation, depth): ENCODER=mini-dino [PROBE=in1k_linear LAYERS=all DATA=mini SELECT=val LAUNCH=torchrun]
	@$(RUN) probe $(ENCODER) $(if $(PROBE),--probe $(PROBE)) $(if $(LAYERS),--layers $(LAYERS)) $(if $(DATA),--data $(DATA)) $(if $(SELECT),--select $(SELECT)) $(LAUNCHED)

export: $(READY) ## write a run's checkpoint as a standard LLaVA model: RUNS=hash TO=folder
	@$(RUN) export $(RUNS) --to $(TO)

score: $(READY) ## score answers of runs again, or a file of answers: RUNS=hash | BENCHMARK=mme ANSWERS=file.jsonl [RULES=cambrian] [ROW=name, to keep them as a row]
	@$(RUN) score $(or $(BENCHMARK),$(RUNS)) $(if $(ANSWERS),--answers $(ANSWERS)) $(if $(RULES),--rules $(RULES)) $(if $(ROW),--as $(ROW))

table: $(READY) ## print the table of runs, or a table of the paper: [TABLE=sota RUNS=a,b RULES=cambrian SUBSET=1000]
	@$(RUN) table $(TABLE) $(if $(SUBSET),--subset $(SUBSET)) $(if $(RUNS),--runs $(RUNS)) $(if $(RULES),--rules $(RULES))

report: $(READY) ## write a site of tables, plots and answers to results/report: [RUNS=a,b RULES=cambrian]
	@$(RUN) report $(if $(RUNS),--runs $(RUNS)) $(if $(RULES),--rules $(RULES))

subset: $(READY) ## compare scores on a subset with scores on all questions: [SUBSET=1000 RUNS=a,b]
	@$(RUN) stats subset $(if $(SUBSET),--size $(SUBSET)) $(if $(RUNS),--runs $(RUNS))

compare: $(READY) ## evaluate several encoders, train what is missing, print one table: ENCODERS=mini-dino,mini-clip,mini-random
	@$(RUN) compare $(ENCODERS) $(ASKED)

align: $(READY) ## measure how similar features of encoders and LLMs are: ENCODER=mini-dino,mini-clip [LLM=mini-llama,runs DATA=hub METRIC=cka PERMUTATIONS=999]
	@$(RUN) align $(ENCODER) $(if $(LLM),--llm $(LLM)) $(if $(DATA),--data $(DATA) --fetch) $(if $(METRIC),--metric $(METRIC)) $(if $(PERMUTATIONS),--permutations $(PERMUTATIONS))

filter: $(READY) ## keep the web images that contain readable text: IMAGES=folder LEVEL=light|heavy MODEL=run [OUT= WRITE=shards LABEL=text RAY=local WORKERS=2]
	@$(RUN) filter --images $(IMAGES) --model $(MODEL) $(if $(LEVEL),--level $(LEVEL)) $(if $(OUT),--out $(OUT)) $(if $(WRITE),--write $(WRITE)) $(if $(LABEL),--label $(LABEL)) $(if $(RAY),--ray $(RAY)) $(if $(WORKERS),--workers $(WORKERS))

leaks: $(READY) ## search training data for benchmark pictures and questions: RECIPE=mini | AGAINST=folder [ENCODER=mini-dino BENCHMARKS=a,b]
	@$(RUN) leaks $(RECIPE) $(if $(AGAINST),--against $(AGAINST)) $(if $(ENCODER),--encoder $(ENCODER)) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) $(if $(DATA),--data $(DATA))

check: $(READY) ## compare the facts in an encoder's yaml with its weights: [ENCODER=mini-dino]
	@$(RUN) check $(ENCODER)

gpu-check: $(READY) ## test the claims about speed, memory and dtypes on a GPU: [DRY=1 ONLY=attention,generation GPUS=2 BUDGET=460 JSON=file]
	@$(RUN) check gpu $(if $(DRY),--dry) $(if $(ONLY),--only $(ONLY)) $(if $(GPUS),--gpus $(GPUS)) $(if $(BUDGET),--budget $(BUDGET)) $(if $(JSON),--json $(JSON))

# Packages for a GPU machine without network, which torch's usual container image lacks, in the versions of constraints.txt.
# They are wheels for that machine's Python and platform; deepspeed is published only as source and is built here.
GPU_PYTHON ?= 3.12
GPU_WHEELS ?= transformers datasets evaluate hjson pydantic pydantic_core annotated-types typing-inspection dill multiprocess
GPU_SOURCES ?= deepspeed
GPU_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
PINNED = $(foreach name,$(1),$(or $(shell grep -im1 '^$(name)==' constraints.txt),$(error $(name): no version in constraints.txt)))
gpu-wheels: $(READY) ## download packages for a GPU machine without network into gpu-wheels/: [GPU_PYTHON=3.12 GPU_WHEELS="a b" GPU_SOURCES=deepspeed]
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version $(GPU_PYTHON) $(addprefix --platform ,$(GPU_PLATFORMS)) --dest gpu-wheels $(call PINNED,$(GPU_WHEELS))
	@$(if $(GPU_SOURCES),$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir gpu-wheels $(call PINNED,$(GPU_SOURCES)))
	@du -sh gpu-wheels; echo "there: python3 -m pip install --no-index --no-deps --find-links gpu-wheels gpu-wheels/*.whl"

mini-weights: $(READY) ## pretrain the miniature's encoders and LLM from scratch, takes hours: [CORPUS=heavy STEPS=4200 SEED=1: mini-dino on filtered pictures]
	@$(RUN) miniature weights $(if $(CORPUS),--corpus $(CORPUS)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED))

lint: $(READY) ## run ruff, import-linter (the order of imports in docs/ARCHITECTURE.md) and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache && $(BIN)/mypy

# One process per core, at most four. Each runs neighbouring tests of a file, so that a fixture of a file is usually made
# once. WORKERS=0 runs all tests in one process, as `python -m pytest` does. The default stands here and not in WORKERS,
# which `make filter` reads, too.
PYTEST = $(BIN)/python -m pytest -n $(or $(WORKERS),logical) --maxprocesses 4 --dist worksteal
test: $(READY) ## run all tests except those that take minutes: [WORKERS=4]
	@$(PYTEST)

test-fast: $(READY) ## run only the quick tests, under two minutes on two cores: [WORKERS=4]
	@$(PYTEST) -m "not slow and not long"

test-long: $(READY) ## run only the tests that take minutes each
	@$(BIN)/python -m pytest -m long

test-lowest: $(READY) ## run the tests of models, exports and adapters with the lowest versions in pyproject.toml, under results/lowest: [TESTS=tests/model]; needs network
	@PYTHONPATH=tests:. $(BIN)/python tests/lowest.py $(if $(TORCH_INDEX),--torch-from $(TORCH_FROM)) $(TESTS)

faults: $(READY) ## kill every step at random points, and compare the results with an undisturbed run: [KILLS=200 SEED=0 MINUTES=120]
	@OMP_NUM_THREADS=1 PYTHONPATH=tests:. $(BIN)/python tests/killing.py --kills $(or $(KILLS),200) $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))
fuzz: $(READY) ## change input files at random, and count accepted, refused and crashing ones: [INPUTS=5000 SEED=0 KINDS="image,csv" ENGINE=atheris]
	@PYTHONPATH=.:tests OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m fuzzing --inputs $(or $(INPUTS),300) $(if $(SEED),--seed $(SEED)) $(if $(KINDS),--kinds "$(KINDS)") $(if $(ENGINE),--engine $(ENGINE))

peers: $(READY) ## ask an exported checkpoint by transformers, lm-eval and lmms-eval, each in its own environment under results/peers: [RUNS=hash CLIENTS=a,b]; needs network
	@PYTHONPATH=tests:. $(BIN)/python -m peers $(if $(RUNS),--run $(RUNS)) $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(TORCH_INDEX),--torch-from $(TORCH_FROM))

# The auditors are installed in their own environment, so that they are not among the audited packages.
AUDITORS := pip-audit==2.10.1 cyclonedx-bom==7.5.0
audit: $(READY) ## list the installed packages (CycloneDX, results/sbom.cdx.json) and their known vulnerabilities; needs network
	@test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check $(AUDITORS); }
	@mkdir -p results && .venv/audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o results/sbom.cdx.json $(BIN)/python
	@.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

bench: $(READY) ## time parts of this project on this machine: [BENCH=scoring]
	@$(RUN) bench $(BENCH)

clean: ## remove caches, but not .venv, data and results
	@find . -path ./.venv -prune -o -type d \( -name __pycache__ -o -name '*.egg-info' \) -print0 | xargs -0 rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# Every target sets itself up: `make demo` and `make test` work on a fresh clone (Python 3.11+ and a C compiler).
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
DEMO := .venv/.installed-demo
HF := .cache/hf-datasets
UV := .cache/uv/bin/uv
pip_setting = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null)
export UV_DEFAULT_INDEX ?= $(or $(PIP_INDEX_URL),$(call pip_setting,index-url),https://pypi.org/simple)
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(call pip_setting,find-links))
COMPILE = UV_FIND_LINKS= UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --upgrade --generate-hashes --no-annotate \
	--no-emit-index-url --python-version 3.12 --python-platform x86_64-manylinux_2_28 -c constraints.txt
STUDY ?= runs/study  # the one that docs tell of lies in docs/study: there nothing would be left to run
WORKERS ?= 2  # processes that share the tests; each takes 1 to 2 GB, the one Ray cluster 2 more
export DS_BUILD_OPS = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: lock demo demo-batch test test-slow test-faults soak study lint bench format clean help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# Install with uv (a third of pip's time), from where pip is told to; with pip if uv cannot.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e "$(1)" || \
		{ echo "uv could not install; trying pip"; $(BIN)/python -m pip install --quiet -c constraints.txt -e "$(1)"; }
	@touch $@
endef

$(STAMP): pyproject.toml constraints.txt | $(UV)
	$(call install,.[dev])

# What the demo needs, and no tools of developers.
$(DEMO): pyproject.toml constraints.txt | $(UV)
	$(call install,.[demo])

# Hugging Face's `datasets` shares our folder's name, so it lives apart: one test reads our Parquet with it.
$(HF)/.installed: Makefile | $(UV)
	$(UV) pip install --quiet --python $(PYTHON) --upgrade --target $(HF) "datasets>=4,<6"
	@touch $@

demo: $(DEMO)  ## the main job, end to end, on the embedded foundation: clips in, motions out over HTTP
	$(BIN)/motiondirector demo

demo-batch: $(DEMO)  ## 25 concepts on a Ray cluster that loses a node, one of them damaged, one late: one table at the end
	$(BIN)/motiondirector demo-batch

test: $(STAMP) $(HF)/.installed  ## the tests (no GPU, no hub), but for those that take minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## the tests of minutes: the whole demo, trainings by teams or killed, a service that grows or is killed
	$(BIN)/python -m pytest -m "slow and not faults"

test-faults: $(STAMP)  ## clusters whose nodes and lanes die: minutes, on a machine that does nothing else
	RAY_worker_niceness=0 $(BIN)/python -m pytest -m faults

soak: $(STAMP)  ## the service under 500 requests over 64 adapters, with cancels, kills and a registry that errs
	MOTIONDIRECTOR_SOAK=500x64 $(BIN)/python -m pytest -m "not faults" tests/serving/test_service_soak.py tests/serving/test_served_soak.py

study: $(STAMP)  ## the method's claim, measured: all methods, held-out motions and appearances (hours; goes on where it stopped)
	$(BIN)/motiondirector study --out $(STUDY)

study-quick: $(STAMP)  ## two motions from one seed, held to loose bounds: about five minutes
	rm -rf runs/study-quick  # results are kept by their settings: of other code they would be stale
	$(BIN)/motiondirector study --quick --check --out runs/study-quick

$(UV): Makefile
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet "uv>=0.13,<0.14"
	@touch $@

# For the image's Python and platform, whatever machine this runs on; of each package the hashes of all its files.
lock: $(UV)  ## what the image installs, with hashes, after a change of pyproject.toml or constraints.txt
	$(COMPILE) pyproject.toml infra/docker/build.in --extra gpu --no-emit-package deepspeed -o infra/docker/requirements.lock
	echo deepspeed | $(COMPILE) --no-deps - -o infra/docker/deepspeed.lock

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## every speed claim, both sides in one run
	for script in benchmarks/*.py; do \
		case $$script in */zeroscope.py|*/published_code.py|*/adapter_hashes.py) continue;; */serving.py) how=--quick;; *) how=;; esac; \
		$(BIN)/python $$script $$how || exit 1; \
	done

clean:  ## remove what the targets made (not runs/)
	rm -rf .venv .cache build *.egg-info

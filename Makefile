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
STUDY ?= runs/study  # not docs/study, which holds the finished study of the documentation
WORKERS ?= 2  # test processes; each needs 1 to 2 GB, and the Ray cluster 2 GB more
export DS_BUILD_OPS = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Where this is set, each of the many processes would compile torch and its friends anew, which takes five seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: lock demo demo-batch studio test test-slow test-browser test-faults soak study lint bench format clean help

help:  ## list the targets
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

# Only what the demo needs, without developer tools.
$(DEMO): pyproject.toml constraints.txt | $(UV)
	$(call install,.[demo])

# One test reads our Parquet files with Hugging Face's `datasets`, which is installed apart because our folder has its name.
$(HF)/.installed: Makefile | $(UV)
	$(UV) pip install --quiet --python $(PYTHON) --upgrade --target $(HF) "datasets>=4,<6"
	@touch $@

demo: $(DEMO)  ## the whole workflow on the embedded foundation: learn motions from clips, serve them over HTTP
	$(BIN)/motiondirector demo

demo-batch: $(DEMO)  ## train 25 concepts, one damaged and one added late, on a Ray cluster that loses a node; print a table
	$(BIN)/motiondirector demo-batch

studio: $(DEMO)  ## serve the web studio on the demo's motions, or on the library where no demo has run; prints its address
	$(BIN)/motiondirector serve --registry $(if $(wildcard runs/demo/registry),runs/demo/registry,runs/registry) --train-lanes 1

test: $(STAMP) $(HF)/.installed  ## run the tests, except those that take minutes (needs no GPU and no hub)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## run the tests that take minutes: the demo, distributed and killed training, a scaled and killed service
	$(BIN)/python -m pytest -m "slow and not faults"

test-browser: $(STAMP)  ## run the studio's story in Chromium (`apt-get install chromium`); SHOTS=FOLDER keeps screenshots
	$(if $(SHOTS),mkdir -p $(SHOTS) &&) STUDIO_SCREENSHOTS=$(SHOTS) $(BIN)/python -m pytest -m browser tests/motiondirector/studio

test-faults: $(STAMP)  ## run the tests in which nodes and lanes of a cluster die (minutes, on an otherwise idle machine)
	RAY_worker_niceness=0 $(BIN)/python -m pytest -m faults

soak: $(STAMP)  ## load the service with 500 requests for 64 adapters, cancels, kills and a failing registry
	MOTIONDIRECTOR_SOAK=500x64 $(BIN)/python -m pytest -m "not faults" tests/serving/test_service_soak.py tests/serving/test_served_soak.py

study: $(STAMP)  ## measure all methods on held-out motions and appearances (hours; continues where it stopped)
	$(BIN)/motiondirector study --out $(STUDY)

study-quick: $(STAMP)  ## measure two motions with one seed and check them against loose bounds (about five minutes)
	rm -rf runs/study-quick  # results are stored by settings, so those of older code would be reused
	$(BIN)/motiondirector study --quick --check --out runs/study-quick

$(UV): Makefile
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet "uv>=0.13,<0.14"
	@touch $@

# Resolves for the image's Python and platform, whatever machine this runs on; lists the hashes of all files of a package.
lock: $(UV)  ## lock the image's packages with hashes; run it after a change of pyproject.toml or constraints.txt
	$(COMPILE) pyproject.toml infra/docker/build.in --extra gpu --no-emit-package deepspeed -o infra/docker/requirements.lock
	echo deepspeed | $(COMPILE) --no-deps - -o infra/docker/deepspeed.lock

lint: $(STAMP)  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure every speed claim, both sides in one run
	for script in benchmarks/*.py; do \
		case $$script in */zeroscope.py|*/published_code.py|*/adapter_hashes.py) continue;; */serving.py) how=--quick;; *) how=;; esac; \
		$(BIN)/python $$script $$how || exit 1; \
	done

clean:  ## remove what the targets created (not runs/)
	rm -rf .venv .cache build *.egg-info

# Everything a developer runs. `make` alone lists the targets.

VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
# One worker per core; more than eight only run out of memory, since each imports torch.
WORKERS     ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 8 ? cores : 8)))
# Extra arguments of the program that a target runs: make test ARGS="-k rotary"
ARGS        ?=

python  := $(VENV)/bin/python
pip     := $(python) -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
# One thread per process: the workers already use every core.
pytest  := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(python) -m pytest -n $(WORKERS) --dist worksteal
other   := .venv-$(TORCH)-$(TRANSFORMERS)
benches := static_counters compile_time cpu_parity cpu_prefill attention training launch_overhead load fusions models

# An interpreter fits if it is one of the supported versions and can make an environment with pip.
fits := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
# The user's own python3 first: a CPU wheel of torch, where one is at hand, is there for that version.
candidates := $(or $(PYTHON),python3 python3.12 python3.13 python3.11 python3.14)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-full test-with browser lint format coverage fuzz kernel-report mutants bench gpu-kit gpu-check clean distclean compiler

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1 \2/p' $(firstword $(MAKEFILE_LIST)) \
	  | while read -r target text; do printf 'make %-13s %s\n' "$$target" "$$text"; done

demo: compiler $(VENV)/.installed ## compile small Transformers models and print what was rewritten
	$(python) -m tile_backend.demo $(ARGS)

test: compiler $(VENV)/.installed ## run the tests, as continuous integration does
	$(pytest) $(ARGS)

test-full: compiler $(VENV)/.installed ## run every test: the whole matrix of models as well
	TEST_COMMAND="make test-full" TEST_RESULT=test_full $(pytest) -m "" -p tests.saved_outcome $(ARGS)

test-with: ## run the tests with TORCH=2.11.0 TRANSFORMERS=5.17.0, say, in an environment of their own
	@test -n "$(TORCH)" -a -n "$(TRANSFORMERS)" \
	  || { echo "tile-backend: name both versions: make test-with TORCH=2.11.0 TRANSFORMERS=5.17.0" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(other)/constraints.txt
	@TEST_COMMAND="make test-with TORCH=$(TORCH) TRANSFORMERS=$(TRANSFORMERS)" \
	  TEST_RESULT=test_with_$(TORCH)_$(TRANSFORMERS) $(MAKE) --no-print-directory test \
	  VENV=$(other) CONSTRAINTS=$(other)/constraints.txt ARGS="-p tests.saved_outcome $(ARGS)"

browser: ## install Debian's Chromium and its driver, which the tests of a dump's page open (apt-get)
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then \
	  echo "tile-backend: $$(chromium --version 2>/dev/null) and its driver are installed"; exit 0; fi; \
	command -v apt-get >/dev/null || { \
	  echo "tile-backend: there is no apt-get here: install Chromium and chromedriver yourself" >&2; exit 1; }; \
	as_root=; test "$$(id -u)" = 0 || as_root=sudo; \
	$$as_root apt-get -qq update && $$as_root apt-get -qq install -y --no-install-recommends chromium chromium-driver || { \
	  echo "tile-backend: apt-get could not install chromium and chromium-driver (no network, or not root?): the tests that need them will be skipped" >&2; exit 1; }

lint: $(VENV)/.installed ## check style, types and habits
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m tests.lint.types
	$(python) -m tests.lint

format: $(VENV)/.installed ## format the code and fix what ruff can fix
	$(python) -m ruff check --fix-only .
	$(python) -m ruff format .

coverage: compiler $(VENV)/.installed ## count the sites found over all causal-LM types of Transformers
	$(python) -m tests.coverage $(ARGS)

kernel-report: $(VENV)/.installed ## compile every kernel for every architecture, check it, write docs/kernels.md
	$(python) -m tests.kernel_report $(ARGS)

mutants: $(VENV)/.installed ## change our own code in small ways, one at a time: the tests must notice; ARGS="--only GLOB"
	OMP_NUM_THREADS=1 $(python) -m tests.mutants $(ARGS)

bench: compiler $(VENV)/.installed ## measure, one bench after the other, then write docs/benchmarks.md: hours
	@for bench in $(benches); do echo "bench.$$bench"; $(python) -m bench.$$bench || exit 1; done
	$(python) -m bench.page

fuzz: compiler $(VENV)/.installed ## run N drawn programs (SEED=0) against eager and float64: make fuzz N=1000
	OMP_NUM_THREADS=1 $(python) -m tests.fuzz $(or $(N),1000) --seed $(or $(SEED),0) $(ARGS)

gpu-kit: $(VENV)/.installed ## pack what an offline GPU machine needs: ARGS="--arch sm_90 --python 3.12"
	$(python) -m tests.gpu_kit.pack $(ARGS)

gpu-check: $(VENV)/.installed ## on a GPU machine, in a checkout or an unpacked kit: prove the kernels
	$(python) -m tests.gpu_kit.check $(ARGS)

clean: ## remove caches and build output
	rm -rf build dist gpu-kit gpu-kit.tar .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache tilegym-report *.egg-info
	find . -name '.venv*' -prune -o -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove the environments as well
	rm -rf .venv .venv-*

$(VENV)/.created:
	@if ! $(python) -m pip --version >/dev/null 2>&1; then \
	  for candidate in $(candidates); do \
	    if $$candidate -c '$(fits)' >/dev/null 2>&1; then $$candidate -m venv $(VENV) && break || exit 1; fi; \
	  done; \
	fi; \
	$(python) -c '$(fits)' >/dev/null 2>&1 || { \
	  echo "tile-backend: needs Python 3.11 to 3.14 with its venv module; tried $(candidates)$(if $(wildcard $(python)), and the one in $(VENV)); name one with PYTHON=." >&2; \
	  exit 1; }
	@touch $@

ifneq ($(wildcard kit.json),)
# An unpacked kit: no network, and torch is the machine's own.
$(VENV)/.installed: kit.json
	@$(or $(PYTHON),python3) -m tests.gpu_kit.install $(VENV)
	@touch $@
else
# torch and setuptools go first: whatever asks for torch later finds this one, and our own package is
# built with the installed setuptools instead of a second one.
$(VENV)/.installed: $(CONSTRAINTS) setup.cfg pyproject.toml | $(VENV)/.created
	@echo "tile-backend: installing into $(VENV) with $(CONSTRAINTS) (minutes, the first time)"
	@$(pip) 'setuptools>=77' torch
	@$(pip) --no-build-isolation -e '.[kernels,demo,test,bench,lint]'
	@touch $@
endif

.venv-%/constraints.txt: constraints.txt
	@mkdir -p $(@D)
	@sed '/^# --- what is compiled/,$$d' $< >$@
	@printf 'torch==%s\ntransformers==%s\n' $(subst -, ,$*) >>$@

compiler: | $(VENV)/.created
	@printf '#include <Python.h>\n#include <omp.h>\n' | $(CXX) -x c++ -fopenmp -fsyntax-only \
	  -I "$$($(python) -c 'import sysconfig; print(sysconfig.get_path("include"))')" - >/dev/null 2>&1 \
	  || { echo "tile-backend: torch.compile needs a C++ compiler with OpenMP and Python's headers: install g++ and python3-dev (or name a compiler with CXX=)." >&2; exit 1; }

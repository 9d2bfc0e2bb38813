# `make help` lists what there is. Everything runs in .venv, which the first call sets up.
#
#   make book                                 the book as HTML
#   make test                                 unit tests, and every notebook at budget smoke
#   make run CHAPTERS="01 04" BUDGET=laptop   execute chapters, store outputs and results
#   make run BUDGET=gpu KEEP=1                record results only; stored outputs stay
#
# Python: the first of 3.11, 3.12, 3.13 found; or name one: make PYTHON=/path/to/python book

SHELL := /bin/sh
BUDGET ?= laptop
CHAPTERS ?=
UV ?= uv
PYTHON ?=
BIN := .venv/bin
READY := .venv/.ready
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
# Tests that try a little in `make test` and long in `make torture`.
TORTURE := $(shell grep -l '^from torture import' tests/test_*.py)
AXE_CORE := axe-core@4.14.1
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.DEFAULT_GOAL := help
.PHONY: help book test lab run study bench torture audit access dist text new-chapter address lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 13

# The stamp is written last: a set-up that was interrupted starts anew at the next call, while
# changed requirements only bring a finished one up to date.
$(READY): requirements.txt
	@for python in $(PYTHONS); do \
	  "$$python" -c '$(FITS)' 2>/dev/null && break; python=; \
	done; \
	test -n "$$python" || { echo "No Python 3.11, 3.12 or 3.13 found that can make a venv (on Debian" \
	  "and Ubuntu it needs the package python3-venv; looked for:" \
	  "$(strip $(PYTHONS))). Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	test -e $@ || { echo "Setting up .venv with $$python: some minutes, once"; \
	  "$$python" -m venv --clear .venv; }
	@rm -f $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

book: $(READY) ## build the HTML book, warnings as errors
	$(BIN)/jupyter-book build --all -W -n --keep-going .
	$(BIN)/python book/tools/editions.py build
	@echo; echo "Open _build/html/index.html"

test: $(READY) ## unit tests, then every notebook at budget smoke
	$(BIN)/python -m pytest --nbval-lax -n 2 --dist loadfile $(ARGS)

lab: $(READY) ## read and run the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

run: $(READY) ## execute chapters (CHAPTERS, BUDGET, FORCE=1, KEEP=1), store what they show
	$(BIN)/python book/tools/execute.py --budget $(BUDGET) \
	  $(if $(FORCE),--force) $(if $(KEEP),--keep-outputs) $(CHAPTERS)

study: $(READY) ## run or resume a study (NAME=…)
	@test -f "studies/$(NAME).py" || { echo "make study NAME=…, one of:"; ls studies; exit 1; }
	$(BIN)/python studies/$(NAME).py $(ARGS)
	$(BIN)/python book/tools/opening.py
	$(BIN)/python book/tools/tables.py

bench: $(READY) ## measure what benchmarks/ compares
	$(BIN)/python benchmarks/run.py
	$(BIN)/python book/tools/tables.py

torture: $(READY) ## try for long to break what must not break (TESTS="tests/test_kill.py")
	CIFAR_TORTURE=1 $(BIN)/python -m pytest $(or $(TESTS),$(TORTURE)) $(ARGS)
	$(BIN)/python book/tools/tables.py

audit: $(READY) ## look up known vulnerabilities and the licences of all pins
	$(BIN)/python book/tools/audit.py; known=$$?; \
	  $(BIN)/python book/tools/tables.py && exit $$known

access: $(READY) ## try every page of the built book with axe-core (needs npm, and a Chromium)
	npm install --silent --no-save --no-audit --no-fund --prefix _build/axe $(AXE_CORE)
	$(BIN)/python -m pytest -m built -n 2 --dist load tests/test_access.py $(ARGS)

dist: book ## one zip of the book, to be read without a network
	$(BIN)/python book/tools/dist.py

text: $(READY) ## what there is to translate (EDITION=zh_CN: its catalogs, too)
	$(BIN)/python book/tools/editions.py text $(EDITION)

new-chapter: $(READY) ## a skeleton that runs: NUMBER=15 NAME=my_topic TITLE="My topic"
	@$(BIN)/python book/tools/new_chapter.py "$(NUMBER)" "$(NAME)" "$(TITLE)"

address: $(READY) ## set the public address everywhere (URL=…), or bring it in step
	$(BIN)/python book/tools/address.py $(URL)

lock: ## write requirements.txt anew from pyproject.toml (needs uv)
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --custom-compile-command "make lock" --extra book --extra deploy --extra dev pyproject.toml -o requirements.txt
	printf '%s\n' '# The package itself, from this folder.' '-e .' >> requirements.txt

clean: ## remove the built book (.venv, data and runs stay)
	rm -rf _build

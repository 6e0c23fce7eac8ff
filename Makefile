# `make help` lists the targets. Everything is installed into .venv; nothing outside of it changes.
# `make test PYTHON=python3.13` tests another Python in an environment of its own, .venv313.
PYTHON ?= python3
VENV ?= .venv$(if $(filter-out file,$(origin PYTHON)),$(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
# One more than there are cores: many tests wait for a server or a process.
PROCESSES := $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test messages soak bench docs screenshots package lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

# What a user installs: the package and its extras.
$(VENV)/.package: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable '.[local,postgres]'
	@touch $@

$(VENV)/.installed: $(VENV)/.package
	$(PIP) install --group dev
	@touch $@

# The lowest versions that pyproject.toml allows: some crawls of the test suite run on them.
# psycopg 3.2.1 has wheels for Python 3.11 and 3.12 only.
.venv-oldest/.installed: pyproject.toml tests/oldest.txt
	$$(for each in python3.11 python3.12 python3; do $$each -c '' 2> /dev/null && echo $$each && break; done) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --quiet --disable-pip-version-check install --upgrade 'pip>=25.1'
	.venv-oldest/bin/python -m pip --quiet --disable-pip-version-check install --editable '.[postgres,redis,spidermon]' \
	  --constraint tests/oldest.txt
	@touch $@

# Published pipelines for comparison, on the same Scrapy.
.venv-peers/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install --upgrade 'pip>=25.1'
	.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install --editable '.[local,postgres]' --group peers
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PIP) install --group bench
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	$(PIP) install --group docs
	@touch $@

SCRAPY := ../$(BIN)/scrapy

demo: $(VENV)/.package  ## crawl the documentation of this Python into a local Supabase and show the rows
	cd example_project && $(SCRAPY) crawl stdlib
	@echo; echo "== What landed: one line a day, its last snapshot"
	@cd example_project && $(SCRAPY) supabase sql "select * from daily_summary"
	@echo; echo "== Every snapshot: each run keeps its rows"
	@cd example_project && $(SCRAPY) supabase sql "select snapshot_date, snapshot_version, count(*) as symbols, \
	  count(distinct (module, name)) as distinct_symbols from symbols group by 1, 2 order by 1, 2"
	@echo; echo "== The largest modules"
	@cd example_project && $(SCRAPY) supabase sql "select name, programming_language as written_in, symbol_count, summary \
	  from modules_latest order by snapshot_date desc, symbol_count desc limit 10"

test: $(VENV)/.installed .venv-oldest/.installed  ## run the tests against a real PostgreSQL and REST API on this machine
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup $(ARGS)

messages: $(VENV)/.installed .venv-oldest/.installed  ## update the golden messages in tests/golden; read the diff before you commit it
	SUPABASE_WRITE_MESSAGES=1 $(BIN)/python -m pytest -q tests/test_messages_*.py $(ARGS)
	@git --no-pager diff --stat tests/golden

soak: $(VENV)/.installed  ## run the tests that take minutes: kill -9 30 times, three workers of a fleet killed 30 times, a server stopped for 20 s, a server that fails 30 % of all requests
	$(BIN)/python -m pytest -m soak $(ARGS)

$(VENV)/.package-tools: $(VENV)/.installed
	$(PIP) install --group package
	@touch $@

package: $(VENV)/.package-tools  ## build the package, check it, and crawl with it in a separate environment (a minute)
	$(BIN)/python -m pytest -m package $(ARGS)

BENCHMARKS := rate ways crawl item peers latency bad_rows growth skip_stored children references load

bench: $(VENV)/.bench .venv-peers/.installed  ## run all benchmarks and update docs/benchmarks (25 minutes; each script has --help)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --write || exit 1; done
	$(BIN)/python -m benchmarks.spool

docs: $(VENV)/.docs  ## build the documentation into docs/_build/html; a warning (such as a broken link) is an error
	$(BIN)/sphinx-build --quiet -b html -E -a -n -W --keep-going -d docs/_build/doctrees docs docs/_build/html

screenshots: $(VENV)/.installed  ## update the pictures of the run report in docs/images (a minute; needs Chromium)
	$(BIN)/python -m docs.screenshots

lint: $(VENV)/.installed  ## run ruff (lint and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environments and the caches of tools
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build docs/_build

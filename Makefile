# Two commands on a fresh machine with Python 3.10 or later: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCHMARK_VENV ?= .venv-benchmark
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check slow docs docs-test benchmark clean

demo: $(VENV)/.installed  ## show what the library does, on pictures of drawn digits
	$(BIN)/python examples/demo.py

test: check  ## everything that must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.installed  ## lint, format, types, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

slow: $(VENV)/.installed  ## the tests that take minutes or need a data set
	$(BIN)/python -m pytest -m slow

docs: $(VENV)/.installed-docs  ## the site, in site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-test: $(VENV)/.installed-docs  ## the site in a real browser (needs chromium, as Debian's package has it)
	$(BIN)/python -m pytest -m site tests/test_site.py

benchmark: $(BENCHMARK_VENV)/.installed  ## side by side with other libraries, in an environment of its own (gigabytes)
	$(BENCHMARK_VENV)/bin/python benchmarks/run.py

# torch first: a plain install of anything that needs it may bring another build
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e ".[docs]"
	touch $@

# without the constraints: torchvision says which torch it takes
$(BENCHMARK_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(BENCHMARK_VENV)
	$(BENCHMARK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[benchmark]"
	touch $@

clean:
	rm -rf $(VENV) $(BENCHMARK_VENV) build dist site out

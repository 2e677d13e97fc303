# Two commands on a fresh machine with Python 3.10 or later: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCHMARK_VENV ?= .venv-benchmark
CONSUMERS_VENV ?= .venv-consumers
AUDIT_VENV ?= .venv-audit
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check slow clients audit docs docs-test consumers benchmark clean

demo: $(VENV)/.installed  ## show what the library does, on pictures of drawn digits
	$(BIN)/python examples/demo.py

# The tests make and drop nets of half a gigabyte: glibc is to keep their memory, since giving it back to the system and
# getting it again took a seventh of the time.
test: check  ## everything that must pass
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.installed  ## lint, format, types, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

slow: $(VENV)/.installed  ## the tests that take minutes or need a data set
	$(BIN)/python -m pytest -m slow

clients: $(VENV)/.installed  ## the tests of the Hub with several versions of its client
	$(BIN)/python tools/client_versions.py

audit: $(AUDIT_VENV)/.installed  ## known vulnerabilities of the pinned packages (asks a service, so not part of the tests)
	$(AUDIT_VENV)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

docs: $(VENV)/.installed-docs  ## the site, in site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-test: $(VENV)/.installed-docs  ## the site in a real browser (needs chromium, as Debian's package has it)
	$(BIN)/python -m pytest -m site tests/test_site.py

consumers: $(CONSUMERS_VENV)/.installed  ## small projects beside other libraries, in an environment of its own (gigabytes)
	$(CONSUMERS_VENV)/bin/python -m pytest -m consumers tests/consumers

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

$(CONSUMERS_VENV)/.installed: pyproject.toml tests/consumers/requirements.txt
	$(PYTHON) -m venv $(CONSUMERS_VENV)
	$(CONSUMERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/consumers/requirements.txt -e ".[data,pictures]"
	touch $@

# without the constraints: torchvision says which torch it takes
$(BENCHMARK_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(BENCHMARK_VENV)
	$(BENCHMARK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[benchmark]"
	touch $@

$(AUDIT_VENV)/.installed:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	touch $@

clean:
	rm -rf $(VENV) $(BENCHMARK_VENV) $(CONSUMERS_VENV) $(AUDIT_VENV) build dist site out

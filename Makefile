# What is assumed: make and a Python of at least 3.11. Everything else is fetched into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# Narrower requirements, for example DJANGO='django~=5.2.0' REDIS='redis~=7.0'.
DJANGO ?=
REDIS ?=
# Further arguments for pytest, for example PYTEST_ARGS='-k publisher -x'.
PYTEST_ARGS ?=
TORTURE_ARGS ?=
# Tests that run at once: two for each processor, as most of them wait for something half of the time.
WORKERS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick server coverage compat compat-oldest lint docs js wheel bench bench-quick \
    torture torture-pages torture-revoke packages packages-oldest packages-legacy browser clean

help:
	@echo 'make demo         run the demo and print its address'
	@echo 'make test         run the tests (coverage: and say what they do not reach)'
	@echo 'make quick        run the tests that need no server, in seconds; say which are left out'
	@echo 'make server       run those that need one'
	@echo 'make compat       run the tests that another Django, redis-py or Redis may fail'
	@echo 'make lint         run the linters and the type checker'
	@echo 'make docs         make the manual as a site; a warning is an error'
	@echo 'make js           run the tests of the browser client (needs node)'
	@echo 'make wheel        build the package, and try it in an empty environment'
	@echo 'make bench        run the benchmarks (bench-quick: their short form)'
	@echo 'make torture      count every message while everything fails in turn (torture-pages: pages'
	@echo '                  that are not whole; torture-revoke: messages that nobody may hear)'
	@echo 'make clean        remove what the above have made'

demo: $(VENV)/.demo
	@$(VENV)/bin/python testproject/manage.py demo

# A module's tests share servers, so a worker takes whole modules as long as there are enough of them.
SIDE_BY_SIDE = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

test: $(VENV)/.test browser
	$(SIDE_BY_SIDE) $(PYTEST_ARGS)

# Half as long again as the tests alone.
coverage: $(VENV)/.test browser
	$(SIDE_BY_SIDE) --cov --cov-report=term $(PYTEST_ARGS)

# Neither Redis nor a web server nor a browser is started; tests/conftest.py tells which tests that are.
quick: $(VENV)/.test
	$(VENV)/bin/python -m pytest --quiet -m 'not server' $(PYTEST_ARGS)
	@command -v node >/dev/null || { \
	    echo 'The tests of the browser client were left out, as they need node.' >&2; exit 0; }; \
	node --test --test-reporter=dot tests/js/*.test.mjs

server: $(VENV)/.test browser
	$(SIDE_BY_SIDE) -m server $(PYTEST_ARGS)

# The others look at the manual, at protocol and browser client, or at what their own clients do wrong.
compat: $(VENV)/.test
	$(SIDE_BY_SIDE) -m 'server and not browser' $(PYTEST_ARGS) tests \
	    --ignore tests/docs --ignore tests/test_fuzz.py --ignore tests/test_torture.py --ignore tests/test_revocations.py

OLDEST = VENV=$(VENV)-oldest DJANGO='django~=4.2.0' REDIS='redis~=5.3'

compat-oldest:
	$(MAKE) compat $(OLDEST)

lint: $(VENV)/.dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

docs: $(VENV)/.docs
	$(VENV)/bin/python docs/make_settings.py
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky -b html \
	    docs docs/_build/html
	@echo 'The manual is in docs/_build/html/index.html.'

js:
	@command -v node >/dev/null || { echo 'make js needs node, which is not on the PATH.' >&2; exit 1; }
	node --test tests/js/*.test.mjs

# From elsewhere and isolated, so that nothing of the checkout can stand in for what is missing.
wheel: $(VENV)/.dev
	rm -rf dist $(VENV)-wheel
	$(VENV)/bin/python -m build --outdir dist
	$(VENV)/bin/python -m twine check --strict dist/*
	$(VENV)/bin/python -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install -qq --disable-pip-version-check dist/*.whl
	wheel="$(abspath $(VENV)-wheel)/bin/python" && check="$$PWD/tests/wheel.py" && cd / && \
	    "$$wheel" -I -W error::DeprecationWarning:channels_ws4redis "$$check"

bench: $(VENV)/.test
	$(VENV)/bin/python -m tests.benchmarks

bench-quick: $(VENV)/.test
	$(VENV)/bin/python -m tests.benchmarks --quick

# Further arguments, for example TORTURE_ARGS='--server uvicorn --seconds 300'.
torture: $(VENV)/.test
	$(VENV)/bin/python -m tests.torture $(TORTURE_ARGS)

torture-pages: $(VENV)/.test
	$(VENV)/bin/python -m tests.torture.pages $(TORTURE_ARGS)

torture-revoke: $(VENV)/.test
	$(VENV)/bin/python -m tests.torture.revoke $(TORTURE_ARGS)

# The browser tests skip themselves without a browser, but not where CI=true.
browser:
	@command -v chromedriver >/dev/null && command -v chromium >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo 'Installing chromium and chromium-driver.'; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	        apt-get -qq install -y --no-install-recommends chromium chromium-driver; } >/dev/null \
	        && exit 0; \
	fi; \
	if [ "$${CI:-}" = true ]; then \
	    echo 'chromium and chromedriver are absent and could not be installed.' >&2; exit 1; \
	fi; \
	echo 'Without chromium and chromedriver the browser tests will be skipped.' >&2

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or later is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	    echo "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu the package python3-venv is needed." >&2; \
	    exit 1; }
	@touch $@

# What .ci/run needs before it runs things side by side: all packages, then those of the oldest versions,
# and the original package, whose server has to be compiled.
packages: $(VENV)/.dev

packages-oldest:
	$(MAKE) $(OLDEST) $(VENV)-oldest/.test

packages-legacy: $(VENV)/.test
	$(VENV)/bin/python -c 'from tests.benchmarks.servers import ensure_legacy; ensure_legacy()'

# One stamp per extra, as a changed pyproject.toml may ask for other packages. Of these dev has all.
EXTRAS = $(addprefix $(VENV)/.,demo test docs dev)
$(EXTRAS): $(VENV)/.%: pyproject.toml | $(VENV)/.python
	@echo 'Installing the packages that "$*" needs into $(VENV); this is needed once.'
	@$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check \
	    --editable '.[$*]' $(if $(DJANGO),'$(DJANGO)') $(if $(REDIS),'$(REDIS)')
	@touch $(if $(filter dev,$*),$(EXTRAS),$@)

clean:
	rm -rf .venv* .bench build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache \
	    .hypothesis docs/_build testproject/var
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make demo        the whole chain on photographs, then on a world whose truth is known; images in demo/out
# make test        linter, type checker, documentation site, tests
# make test-slow   the tests that take longer
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest -n 2 --dist loadfile

.PHONY: demo test test-slow site clean

demo: $(VENV)/installed-demo
	$(PYTHON) -m demo
	$(PYTHON) -m demo.digits

test: $(VENV)/installed-dev site
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST) -m "not slow and not install"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m "slow and not install"

site: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir build/site

$(VENV)/bin/python:
	python3 -m venv $(VENV) || { echo "python3 has no venv: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m pip install --quiet --upgrade pip

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "installing .[$*] into $(VENV) (torch with its CUDA libraries is about 5 GB)"
	$(PYTHON) -m pip install --quiet --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build demo/out

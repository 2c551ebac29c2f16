# make demo   the whole chain on photographs, then on a world whose truth is known; pictures in demo/out
# make test   linter, type checker, tests
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test clean

demo: $(VENV)/installed
	$(PYTHON) -m demo
	$(PYTHON) -m demo.digits

test: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTHON) -m pytest

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV) (torch with its CUDA libraries is about 5 GB)"
	python3 -m venv $(VENV) || { echo "python3 has no venv: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[dev,rtx,ep-rtx]"
	@touch $@

clean:
	rm -rf $(VENV) demo/out

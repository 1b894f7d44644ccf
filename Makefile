# Every target sets up what it needs in $(VENV) on its first call and finds it there on the next.

PYTHON ?= python3
VENV ?= .venv
# What pip installs first, before anything that depends on torch. For CUDA, and after `make clean`:
#   make demo TORCH="torch==<version> --index-url <where PyTorch publishes it>"
TORCH ?= $(shell sed -n '/^torch==/p' constraints.txt)
# Passed on by `demo`, `test`, `test-slow` and `peft-suite`: make test ARGS="tests/test_configs.py -k middle"
ARGS ?=
# A clone of https://github.com/huggingface/peft, at the release that is installed or near it; for `peft-suite`.
PEFT_CHECKOUT ?=

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

# The environment is its own: nothing of the one around it may be imported.
unexport PYTHONPATH
unexport PYTHONHOME
# The tests start many processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow peft-suite quality format docs notebooks release-check lower-bounds clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make demo     learn prompts for the tiny CLIP that ships with the package"
	@echo "make test     run the tests: a few minutes"
	@echo "make test-slow"
	@echo "              run those that it leaves out: tests/slow_tests.py"
	@echo "make quality  lint, formatting, types"
	@echo "make format   apply the formatting, and the fixes that the linter can make by itself"
	@echo "make docs     build the documentation site into site/"
	@echo "make notebooks"
	@echo "              make notebooks of the quickstart and of a tutorial, in build/notebooks"
	@echo "make release-check"
	@echo "              build the package, check it, and try the wheel alone in an empty environment"
	@echo "make lower-bounds"
	@echo "              run the tests with the oldest dependencies that pyproject.toml allows"
	@echo "make clean    remove $(VENV), caches and outputs"
	@echo "make peft-suite PEFT_CHECKOUT=/path/to/peft"
	@echo "              run PEFT's own tests of what every method must do"

demo: $(VENV)/installed-cli
	$(PY) -m peft_coop demo $(ARGS)

test: $(VENV)/installed-test
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-slow: $(VENV)/installed-test
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

peft-suite: $(VENV)/installed-peft-suite
	PEFT_CHECKOUT="$(PEFT_CHECKOUT)" $(PY) -m pytest tests/peft_suite.py $(ARGS)

quality: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# What the theme says of its future is known; a warning of a page or a link is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# The wheel sees nothing of this checkout: the core alone must start, and with `cli` the demo must run.
release-check: $(VENV)/installed-release
	rm -rf dist build/wheel
	$(PY) -m build
	$(PY) -m twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	build/wheel/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build/wheel && bin/peft-coop --version && bin/python -c "import peft_coop"
	build/wheel/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt "$$(echo dist/*.whl)[cli]"
	cd build/wheel && bin/peft-coop demo --quiet --output demo-output

# Old releases may warn of newer ones of what they depend on themselves: that is no error here.
# The oldest torch of a package index may come without a wheel for this Python: LOWER_PYTHON chooses another one.
LOWER_PYTHON ?= $(PYTHON)
lower-bounds: $(VENV)/installed-release
	mkdir -p build
	$(PY) -m uv pip compile --quiet --resolution lowest-direct --extra test --python $(LOWER_PYTHON) \
		--output-file build/lower-bounds.txt pyproject.toml
	$(PY) -m uv venv --quiet --clear --seed --python $(LOWER_PYTHON) build/lower-bounds
	$(PY) -m uv pip install --quiet --python build/lower-bounds/bin/python --requirement build/lower-bounds.txt
	$(PY) -m uv pip install --quiet --python build/lower-bounds/bin/python --no-deps --editable .
	build/lower-bounds/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		-W ignore::DeprecationWarning $(ARGS)

notebooks: $(VENV)/installed-docs
	$(PY) docs/scripts/notebooks.py build/notebooks

format: $(VENV)/installed-dev
	$(PY) -m ruff check --fix --exit-zero .
	$(PY) -m ruff format .

# The torch that is installed, exactly: a constraint that lets no later pip call replace it.
$(VENV)/torch.txt: constraints.txt
	@echo "Creating $(VENV) with $(TORCH): takes a few minutes the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) $(TORCH)
	@$(PY) -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $@

$(VENV)/installed-%: $(VENV)/torch.txt pyproject.toml
	@echo "Installing peft-coop[$*] into $(VENV)."
	@$(PIP_INSTALL) --constraint $< --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

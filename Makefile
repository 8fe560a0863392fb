# Two commands: `sudo make demo` and `sudo make test`. Both do their own set-up, inside the checkout except for the Debian
# packages named below. `make help` lists the rest.

PYTHON   ?= /usr/bin/python3
VENV     := .venv
BIN      := $(VENV)/bin
PROTOS   := $(wildcard proto/governed/v1/*.proto)
DEBIAN   := curl gcc pkg-config libcap-dev libseccomp2 libsystemd-dev python3-dev python3-venv sqlite3
NPM      := $(addprefix @modelcontextprotocol/,server-everything@2026.8.31 server-filesystem@2026.8.31 server-memory@2026.8.31 \
            conformance@0.1.16) node-linux-$(subst aarch64,arm64,$(subst x86_64,x64,$(shell uname -m)))@22

.PHONY: help build demo test lint unit bench bench-peers gate-model clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

build: .build/installed .build/protos ## the three programs in .venv/bin

.build/debian: Makefile
	@mkdir -p .build
	@packaging/debian-packages $(DEBIAN)
	@touch $@

.build/installed: .build/debian pyproject.toml
	@packaging/make-venv $(PYTHON) $(VENV) '.[gate,gateway,demo,dev]'
	@touch $@

.build/protos: .build/installed $(PROTOS)
	@$(BIN)/python packaging/compile-protos proto daemon
	@touch $@

# Servers from npm, for the tests of the gateway. node and npm of Debian, unless others are there; the conformance suite
# needs a newer node, which is among the packages.
.build/npm: .build/debian Makefile
	@command -v npm >/dev/null || packaging/debian-packages nodejs npm
	@npm install --prefix $@ --no-fund --no-audit --ignore-scripts --loglevel=error $(NPM)
	@touch $@

demo: build ## the main job on real input (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/demo/main.py

test: build lint unit ## everything that CI runs (as root)

lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: build .build/npm
	@packaging/as-seen-by-users $(BIN)/python -m pytest

bench: build ## costs, as JSON and a table (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/main.py

bench-peers: build ## the same work in two peers, from PyPI in a temporary environment (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/peers.py

gate-model: build ## trains the embedded gate's model
	@$(BIN)/python -m governed_mcpd.gate.probe.train

clean: ## removes what the build made
	rm -rf .build .venv build daemon/governed daemon/*.egg-info

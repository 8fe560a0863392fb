# Three commands: `sudo make demo`, `sudo make test`, `sudo make vm-test`. They do their own set-up, inside the checkout
# except for the Debian packages named below. `make help` lists the rest.

PYTHON   ?= /usr/bin/python3
VENV     := .venv
BIN      := $(VENV)/bin
PROTOS   := $(wildcard proto/governed/v1/*.proto)
DEBIAN   := bind9-dnsutils busybox-static clang curl gcc pkg-config libbpf-dev libbpf1 libcap-dev libseccomp2 libsystemd-dev man-db musl-tools python3-dev \
            python3-venv sqlite3 systemd
MACHINES := cpio debootstrap e2fsprogs git kmod qemu-system-x86 qemu-utils
PACKAGER := build-essential debhelper dpkg-dev lintian
NPM      := $(addprefix @modelcontextprotocol/,server-everything@2026.8.31 server-filesystem@2026.8.31 server-memory@2026.8.31 \
            conformance@0.1.16) @playwright/mcp@0.0.83 @bytebase/dbhub@0.21.2 pg@8 node-linux-$(subst aarch64,arm64,$(subst x86_64,x64,$(shell uname -m)))@22

SERVERS  := chromium postgresql

.PHONY: help deb lock build demo test test-vllm vm-test vm-test-full lint unit bench bench-peers bench-vllm gate-model eval eval-data clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

SEAL     := daemon/governed_mcpd/grant/seal.bpf.o
NAMES    := daemon/governed_mcpd/names/names.bpf.o

build: .build/installed .build/protos $(SEAL) $(NAMES) ## the four programs in .venv/bin

.build/debian: Makefile
	@mkdir -p .build
	@packaging/debian-packages $(DEBIAN)
	@touch $@

.build/installed: .build/debian pyproject.toml $(wildcard daemon/governed_mcpd/*/*.[ch])
	@packaging/make-venv $(PYTHON) $(VENV) '.[gate,gateway,resolver,demo,dev]'
	@touch $@

.build/protos: .build/installed $(PROTOS)
	@$(BIN)/python packaging/compile-protos proto daemon
	@touch $@

# One object for every kernel; from the directory itself and with mapped paths, so that it is the same wherever it is built.
# (The headers of the machine's own architecture are where only its own compiler looks by itself.)
$(SEAL) $(NAMES): .build/debian $(wildcard bpf/*.[ch])
	@cd bpf && clang -target bpf -O2 -g -Wall -Werror -Wno-unused-function -ffile-prefix-map="$$PWD"=bpf \
	  -fdebug-compilation-dir=bpf -idirafter /usr/include/$$(uname -m)-linux-gnu \
	  -c $(notdir $(@:.o=.c)) -o ../$@.new
	@mv $@.new $@

# Servers from npm, for the tests of the gateway. node and npm of Debian, unless others are there; the conformance suite
# needs a newer node, which is among the packages.
.build/npm: .build/debian Makefile
	@command -v npm >/dev/null || packaging/debian-packages nodejs npm
	@packaging/debian-packages $(SERVERS)
	@npm install --prefix $@ --no-fund --no-audit --ignore-scripts --omit=optional --loglevel=error $(NPM)
	@touch $@

# A server from PyPI that needs an older SDK than the tests' own client.
.build/servers: Makefile
	@$(PYTHON) -m venv --clear $@
	@$@/bin/pip install --disable-pip-version-check --quiet 'mcp-server-sqlite==2025.4.25' 'mcp<2'
	@touch $@

demo: build ## the main job on real input (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/demo/main.py

test: build lint unit ## lint, types, and all tests but those of test-vllm and vm-test (as root)

lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Two at a time: half of the time a test of real processes waits for them.
unit: build .build/npm .build/servers
	@packaging/as-seen-by-users $(BIN)/python -m pytest -m 'not alone' -n 2 --dist loadfile
	@packaging/as-seen-by-users $(BIN)/python -m pytest -m alone

deb: build .build/deb/built ## a package for Debian 12 (amd64) in build/, with its own Python environment

.build/deb/built: .build/protos $(SEAL) $(NAMES) tests/packaging/built.py \
    $(shell find LICENSE README.md pyproject.toml bpf daemon packaging policies -type f ! -name '*.pyc' ! -name '*.so')
	@packaging/debian-packages $(PACKAGER)
	@packaging/build-deb build
	@$(BIN)/python -m pytest -q tests/packaging/built.py
	@touch $@

vm-test: build ## the seal and the package on Debian's kernels, in virtual machines (as root)
	@packaging/debian-packages $(MACHINES) $(PACKAGER)
	@nice -n 5 vm-tests/run all

vm-test-full: build ## the same with more attempts at each race, and with other kernel parameters
	@packaging/debian-packages $(MACHINES) $(PACKAGER)
	@nice -n 5 vm-tests/run all --full

lock: build ## pins anew what the package's Python environment consists of
	@$(BIN)/python packaging/lock packaging/requirements.lock '.[gate,gateway,resolver]'
	@$(BIN)/python packaging/lock packaging/requirements-build.lock 'pip>=25,<27' 'setuptools>=77,<90' 'wheel>=0.43,<1'

bench: build ## costs, as JSON and a table (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/main.py

bench-peers: build ## the same work in two peers, from PyPI in a temporary environment (as root)
	@packaging/as-seen-by-users $(BIN)/python tests/bench/peers.py

bench-vllm: build .build/tiny-model/config.json ## what layer 5 adds to a request to vLLM (installed as for test-vllm)
	@$(BIN)/python tests/bench/vllm.py

gate-model: build ## trains the embedded gate's model
	@$(BIN)/python -m governed_mcpd.gate.probe.train

# vLLM has an environment of its own: it brings 3.5 GB along, and other versions of what the product needs.
.build/vllm/installed: packaging/make-vllm | .build/debian
	@packaging/make-vllm $(PYTHON) .build/vllm
	@touch $@

# A language model of 0.3 million parameters that knows the corpus by heart; made anew when its examples change.
.build/tiny-examples.jsonl: build
	@$(BIN)/python -m tests.vllm.tiny.examples >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.build/tiny-model/config.json: .build/vllm/installed .build/tiny-examples.jsonl tests/vllm/tiny/train.py
	@.build/vllm/bin/python tests/vllm/tiny/train.py .build/tiny-examples.jsonl .build/tiny-model

test-vllm: build .build/tiny-model/config.json ## layer 5 against a running vLLM, which this installs (3.5 GB; as root)
	@packaging/as-seen-by-users $(BIN)/python -m pytest $(addprefix tests/vllm/served_,reads.py faults.py gate.py options.py)

eval: build .build/tiny-model/config.json ## how good the gate is: make eval DATA=DIR writes docs/evaluation.md
	@test -n "$(DATA)" || { echo "error: name a directory with tool_calls*.jsonl: make eval DATA=DIR" >&2; exit 1; }
	@$(BIN)/python -m tests.evaluation.main "$(DATA)" $(if $(FURTHER),.build/further)

eval-data: build ## more benchmarks, from PyPI, into .build/further: make eval DATA=DIR FURTHER=1 measures them too
	@mkdir -p .build/further
	@$(BIN)/pip download --quiet --no-deps --only-binary :all: --dest .build/further 'inspect-evals==0.26.0' \
	  'bfcl-eval==2026.3.23' 'bastioncorpus==0.6.0'
	@$(BIN)/python tests/evaluation/further.py .build/further/inspect_evals-0.26.0-*.whl .build/further/tool_calls.jsonl
	@$(BIN)/python tests/evaluation/crossed.py .build/further .build/further/tool_calls_crossed.jsonl

clean: ## removes what the build made
	rm -rf .build .cache .venv build daemon/governed daemon/*.egg-info daemon/governed_mcpd/*/*.so

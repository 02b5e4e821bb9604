# Every command a person types; `make` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ACTIVE := PATH=$(CURDIR)/$(BIN):$$PATH

# uv takes seconds where pip takes half a minute. It reads no pip.conf: an index that is set there is handed on.
PIP_INDEX = $(BIN)/pip config list | sed -n "s/^[^ =]*\.index-url='\(.*\)'$$/UV_DEFAULT_INDEX=\1/p" | tail -n 1
UV_SETTINGS = $$($(PIP_INDEX)) UV_SYSTEM_CERTS=1
UV = env $(UV_SETTINGS) $(BIN)/uv pip
COMPILE = $(UV) compile --quiet --universal --fork-strategy fewest --python-version 3.11 --no-annotate --no-emit-index-url \
	--no-header pyproject.toml

# What a master has beside what a runner has; the acceptance is a client.
MASTER := master client flower

# What a person types who uses datarun; the other targets are for work on it.
TO_USE := demo serve test setup cluster cluster-down clean help

# Compiled at the installation: a sandbox reads them again and again, and can't write what Python compiles.
IN_SANDBOX := numpy pandas scipy sklearn joblib

# What molecule/apis needs of the machine.
FOR_OPENSTACK := curl mariadb-server-core mariadb-client-core openssh-client

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo serve test lint bench pins clean help packages sandbox soak chaos test-fast flaky vm-test setup cluster cluster-test cluster-chaos operations-test cluster-down openstack-test openstack-site-test rig

demo: sandbox $(VENV)/.demo  ## run three whole challenges on the embedded default
	@cd app && ../$(BIN)/python -m test_files

serve: sandbox $(VENV)/.demo  ## run the server and a worker until Ctrl-C (PORT, DATARUN_HOME, USER_LOGIN, USER_PSWD)
	@cd app && exec ../$(BIN)/python manage.py serve

test: packages $(VENV)/.test  ## run all tests, those of the API on real services too; ARGS='-k name' chooses
	@$(BIN)/python -m tests.suite $(ARGS)

test-fast: $(VENV)/.test  ## the tests of one part alone each, on the embedded default
	@$(BIN)/python -m tests.suite tests/app tests/client tests/runner

flaky: packages $(VENV)/.test  ## the suite, or what ARGS chooses, RUNS times in random order beside a busy loop on each core
	@$(BIN)/python -m tests.flaky $(or $(RUNS),10) $(ARGS)

soak: packages $(VENV)/.test  ## 2,000 honest and hostile folds on one runner, some minutes
	@$(BIN)/python -m pytest -m soak tests/sandbox

chaos: packages $(VENV)/.test  ## each fault alone, then at random: SEED=n MINUTES=m
	@tests/install_packages.sh gcc libc6-dev
	@CHAOS_SEED=$(SEED) CHAOS_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m 'chaos or not chaos' -q tests/chaos $(ARGS)

vm-test:  ## run the sandbox's tests on Debian 12 with cgroup v2, emulated: half an hour, as root
	@tests/vm/run $(ARGS)

lint: $(VENV)/.lint  ## ruff, mypy, import-linter, yamllint, ansible-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/yamllint --strict .
	@# side by side, as each has one thread most of the time
	@$(BIN)/mypy & mypy=$$!; $(ACTIVE) ansible-lint --offline -q; linted=$$?; \
		wait $$mypy && exit $$linted

setup: $(VENV)/.control  ## install Ansible: . .venv/bin/activate, then ansible-playbook site.yml

cluster: rig $(VENV)/.cluster  ## make a cluster of test hosts on this machine to play with, as root
	@$(ACTIVE) molecule converge
	@echo "the API: https://10.81.0.10/ (organiser, 'not a secret: organiser'); a host: ssh -i .cluster/key debian@10.81.0.11"

cluster-test: rig $(VENV)/.cluster  ## make one, test it, change it, remove it, as root
	@$(ACTIVE) molecule destroy  # and forget: molecule remembers clusters outside the checkout
	@# molecule breaks lines at COLUMNS, those too in which .ci/run looks for the tests that failed
	@trap '$(ACTIVE) molecule destroy' EXIT; \
		$(ACTIVE) COLUMNS=600 molecule test --destroy=never && $(BIN)/python -m pytest -n 2 --dist loadgroup tests/cluster -m scenario

cluster-chaos: cluster  ## make chaos on a cluster of test hosts, with their power, links, disks and clocks
	@CHAOS_SEED=$(SEED) CHAOS_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/cluster -m chaos $(ARGS)

operations-test: cluster  ## upgrade, back up, restore, replace ... a cluster of test hosts under load, and remove it: an hour or more
	@trap '$(ACTIVE) molecule destroy' EXIT; $(BIN)/python -m pytest tests/cluster -m operations $(ARGS)

openstack-test: $(VENV)/.cluster  ## make, change and remove instances on OpenStack's real APIs
	@tests/install_packages.sh $(FOR_OPENSTACK)
	@$(ACTIVE) molecule reset --scenario-name openstack  # molecule remembers instances outside the checkout
	@trap 'molecule/apis down' EXIT; \
		env $(ACTIVE) $(UV_SETTINGS) PYTHON=$(PYTHON) COLUMNS=600 molecule test --scenario-name openstack --destroy=never && \
		$(BIN)/python -m pytest -n 3 --dist worksteal -m openstack tests/openstack

openstack-site-test: rig $(VENV)/.cluster  ## site.yml from nothing, on test hosts in the place of instances, as root: a quarter of an hour
	@tests/install_packages.sh $(FOR_OPENSTACK)
	@trap '$(ACTIVE) molecule destroy; molecule/apis down' EXIT; \
		$(ACTIVE) molecule create && env $(ACTIVE) $(UV_SETTINGS) PYTHON=$(PYTHON) molecule/apis up && $(BIN)/python -m pytest -m operations tests/openstack

cluster-down: $(VENV)/.cluster  ## remove the test hosts; their images stay (molecule/hosts clean removes those)
	@$(ACTIVE) molecule destroy

bench: packages $(VENV)/.test  ## measure, each figure beside its bound
	@$(BIN)/python -m bench $(ARGS)

pins: $(VENV)/.python  ## write requirements.txt anew, with the newest versions, and with hashes what the roles install
	@head -n 3 requirements.txt >$(VENV)/header
	@$(COMPILE) --all-extras --output-file $(VENV)/pins
	@cat $(VENV)/header $(VENV)/pins >requirements.txt && rm $(VENV)/header $(VENV)/pins
	@$(COMPILE) -c requirements.txt --generate-hashes --output-file requirements/runner.txt
	@$(COMPILE) -c requirements.txt --generate-hashes --output-file requirements/master.txt $(MASTER:%=--extra %)

clean:  ## remove what make made; the data of `make serve` stays
	@rm -rf $(VENV) build dist app/*.egg-info .*_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*  ## ' -v to_use=' $(TO_USE) ' '/^[a-z-]+:/ && NF == 2 { \
		line = sprintf("  make %-20s %s\n", $$1, $$2); \
		if (index(to_use, " " $$1 " ")) using = using line; else working = working line } \
		END { printf "To use datarun:\n%s\nTo work on it:\n%s", using, working }' Makefile

# What the sandbox needs of the machine: installed where we are root, named elsewhere.
sandbox:
	@tests/install_packages.sh bubblewrap libseccomp2

packages:
	@tests/install_packages.sh

# What the test hosts need of the machine.
rig:
	@tests/install_packages.sh bubblewrap libseccomp2 mmdebstrap podman runc conmon netavark aardvark-dns iptables \
		openssh-client debian-archive-keyring

# The virtual environment and what is in it: a stamp each, so that a second run has nothing to do.

$(VENV)/.python: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "datarun needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/install_packages.sh python3-venv
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) makes no virtual environment; on Debian: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip --quiet --quiet --disable-pip-version-check install -c requirements.txt uv
	@touch $@

$(VENV)/.demo: EXTRAS := [master,client]
$(VENV)/.control: EXTRAS := [control]
$(VENV)/.test: EXTRAS := [master,client,control,test]
$(VENV)/.cluster: EXTRAS := [master,client,control,test,cluster]
$(VENV)/.lint: EXTRAS := [master,client,control,test,lint]
$(VENV)/.demo $(VENV)/.control $(VENV)/.test $(VENV)/.cluster $(VENV)/.lint: $(VENV)/.python pyproject.toml requirements.txt
	@echo "installing Python packages for make $(@:$(VENV)/.%=%) into $(VENV)"
	@$(UV) install --quiet --python $(BIN)/python -c requirements.txt -e '.$(EXTRAS)'  # Python compiles what it uses
	@$(BIN)/python -m compileall -q -j 0 -x /tests/ $(IN_SANDBOX:%=$(VENV)/lib/python3*/site-packages/%)
	@touch $@

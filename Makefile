# make demo: install canthus and run it on the bundled clip. make test: run every check, in two processes (or JOBS=4).
# make fuzz: read thousands of damaged files. make scale: read very many files. make clean: delete what they made.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test fuzz scale schemes release-report clean

demo: $(VENV)/installed
	$(BIN)/canthus doctor --fetch
	mkdir -p demo
	$(BIN)/canthus video runtime/sample/portrait.mp4 -o demo/portrait.mp4 --table demo/portrait.csv --overwrite
	@echo "Video with the points: demo/portrait.mp4. Table of the points: demo/portrait.csv. Command: $(BIN)/canthus"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then $(BIN)/canthus view runtime/sample/portrait.mp4; fi

test: $(VENV)/installed-dev
	$(BIN)/canthus doctor --fetch
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/support/check_types.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=

# make fuzz COUNT=10000 KINDS="videos images"
fuzz: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz $(KINDS) --count $(or $(COUNT),1000)

# make schemes FACES=shard.tar: train with other points on faces that have 98, and use the models in all commands.
schemes: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m support.scheme_chain $(FACES) $(if $(SAMPLES),--samples $(SAMPLES))

# Hours, and memory and handles over this time. make scale RUNS=clips COUNT=200
scale: $(VENV)/installed
	PYTHONPATH=tests $(BIN)/python -m scale $(RUNS) $(if $(COUNT),--count $(COUNT))

# On a quiet machine: the report that is kept for the version, in runtime/bench/releases. It takes some minutes.
release-report: $(VENV)/installed
	$(BIN)/canthus bench stages -o build/stages --size 720p 4k --faces 1 16 --frames 60 --overwrite
	mkdir -p runtime/bench/releases
	cp build/stages/stages.json runtime/bench/releases/$$($(BIN)/canthus --version | cut -d' ' -f2).json

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing canthus and the libraries that it runs with into $(VENV)"
	$(PIP) install -c constraints.txt -e .
	$(BIN)/python .ci/system_packages.py
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing PyTorch, TensorRT-RTX and the development tools into $(VENV)"
	$(PIP) install -c constraints.txt setuptools -e '.[train,rtx,quantize,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build .coverage

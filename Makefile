# make demo: install and run the main job on the bundled clip. make test: everything that must hold.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/canthus doctor --fetch
	mkdir -p demo
	$(BIN)/canthus video runtime/sample/portrait.mp4 -o demo/portrait.mp4 --table demo/portrait.csv --overwrite
	@echo "The video with the points: demo/portrait.mp4. The points: demo/portrait.csv."
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then $(BIN)/canthus view --source runtime/sample/portrait.mp4; fi

test: $(VENV)/installed-dev
	$(BIN)/canthus doctor --fetch
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/support/check_types.py
	$(BIN)/pytest -q

$(VENV)/installed: pyproject.toml constraints.txt
	sh .ci/system-packages
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install -q -c constraints.txt setuptools -e '.[train,rtx,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build

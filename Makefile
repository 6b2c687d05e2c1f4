# make demo   simulate, reconstruct and score a phantom; the run is left in runs/demo
# make test   every test; those that call RELION are skipped where it is not installed
# make lint   linter, formatter, type checker, layer contract
# Each first makes .venv and installs into it (make install does that part alone).

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0

# Threads that spin while they wait slow each other down on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_DATA := runs/demo-data
DEMO_RUN  := runs/demo

.PHONY: install demo test lint clean

install: $(INSTALLED)

# Old pips do not know every tag of newer wheels, hence the first upgrade.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	rm -rf $(DEMO_DATA) $(DEMO_RUN)
	$(BIN)/cryogimbal simulate asymmetric --box 32 --pixel-size 8 --n-particles 2000 \
		--snr 0.1 --seed 0 --out $(DEMO_DATA)
	$(BIN)/cryogimbal reconstruct $(DEMO_DATA)/particles.star --out $(DEMO_RUN) --seed 0
	$(BIN)/cryogimbal evaluate $(DEMO_RUN) --truth-star $(DEMO_DATA)/truth.star \
		--truth-map $(DEMO_DATA)/truth.mrc

test: install
	$(BIN)/python -m pytest tests --durations=10

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO_DATA) $(DEMO_RUN) build

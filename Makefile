# Thin: CMake does the work. `make demo` and `make test` work on a bare Debian 12 machine.
BUILD ?= build
PACKAGES = build-essential cmake pkg-config libpng-dev libjpeg-dev zlib1g-dev libdnnl-dev \
	libcjson-dev libpcre2-dev libutf8proc-dev libcmocka-dev
CUDA_PACKAGES = python3-venv
CUDA_WHEELS = nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl \
	nvidia-cublas
CUDA_VERSION = 13.0
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# The machine's own nvcc if it is new enough, else the one that `make deps-cuda` fetched; none: no
# CUDA backend.
OWN_NVCC := $(CUDACXX)$(shell nvcc --version 2> /dev/null | \
	sed -n 's/.*release \([0-9]*\).*/\1/p' | awk '$$1 >= 12')
ifeq ($(OWN_NVCC),)
CUDACXX = $(wildcard $(CURDIR)/.cuda/toolkit/bin/nvcc)
export CUDACXX
endif

# Asks apt only for what is missing.
define apt_install
	@missing=$$(for p in $(1); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -q && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi
endef

.PHONY: all deps deps-cuda demo test check-gpu bench install clean

all:
	cmake -S . -B $(BUILD) $(CMAKE_FLAGS)
	cmake --build $(BUILD) -j$$(nproc) $(TARGETS:%=--target %)

deps:
	$(call apt_install,$(PACKAGES))

# To compile for GPUs where there is no CUDA toolkit: the compiler and cuBLAS from PyPI, a download
# of 900 MB. Debian's own (11.8) is too old.
deps-cuda: deps
ifeq ($(OWN_NVCC),)
	$(call apt_install,$(CUDA_PACKAGES))
	rm -rf .cuda
	python3 -m venv .cuda
	.cuda/bin/pip install -q --no-cache-dir $(CUDA_WHEELS:%=%==$(CUDA_VERSION).*)
	set -e; cd .cuda/lib/python3*/site-packages/nvidia/cu*; ln -s lib lib64; \
	for f in lib/*.so.*; do ln -s $${f##*/} $${f%%.so.*}.so; done; \
	ln -s "$$PWD" $(CURDIR)/.cuda/toolkit
endif

demo: TARGETS = squint
demo: deps all
	@mkdir -p demo-out
	@for keep in 576 144; do \
		echo; echo "What do you see? ($$keep of 576 visual tokens)"; \
		$(BUILD)/squint ask -m models/demo --image samples/frogs.jpg -p "What do you see?" \
			--prune fastervlm --keep $$keep --stats --show demo-out/kept-$$keep.png || exit 1; \
	done
	@echo; echo "The kept tokens: demo-out/kept-144.png"

# Several tests at once: their threads must not spin while they wait for each other.
CTEST = OMP_WAIT_POLICY=passive ctest --test-dir $(BUILD) --output-on-failure -j$$(nproc)

test: deps all
	$(CTEST) $(if $(TESTS),-R '$(TESTS)')

# On a machine with a GPU; STEPS chooses some of them (bench/gpu_check.sh --list).
check-gpu: all
	sh bench/gpu_check.sh --build $(BUILD) $(STEPS)

bench: all
	$(BUILD)/squint bench -m models/demo

install: all
	cmake --install $(BUILD)

clean:
	rm -rf $(BUILD) demo-out gpu-check

# Thin: CMake does the work. `make demo` and `make test` work on a bare Debian 12 machine.
BUILD ?= build
PACKAGES = build-essential cmake pkg-config libpng-dev libjpeg-dev zlib1g-dev libdnnl-dev \
	libcjson-dev libpcre2-dev libutf8proc-dev libcmocka-dev
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all deps demo test bench install clean

all:
	cmake -S . -B $(BUILD) $(CMAKE_FLAGS)
	cmake --build $(BUILD) -j$$(nproc)

# Asks apt only for what is missing.
deps:
	@missing=$$(for p in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -q && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi

demo: deps all
	@mkdir -p demo-out
	@for keep in 576 144; do \
		echo; echo "What do you see? ($$keep of 576 visual tokens)"; \
		$(BUILD)/squint ask -m models/demo --image samples/frogs.jpg -p "What do you see?" \
			--prune fastervlm --keep $$keep --stats --show demo-out/kept-$$keep.png || exit 1; \
	done
	@echo; echo "The kept tokens: demo-out/kept-144.png"

test: deps all
	ctest --test-dir $(BUILD) --output-on-failure

bench: all
	$(BUILD)/squint bench -m models/demo

install: all
	cmake --install $(BUILD)

clean:
	rm -rf $(BUILD) demo-out

# The way in. Meson and Ninja do the building; this file only says what can be asked for.
#
#   BUILD=dir     another build directory          JOBS=n       how many things at a time
#   KIND=cloud    kernel for `make run`: cloud, amd64 or 686
BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
KIND ?= cloud
export BUILD JOBS

.DEFAULT_GOAL := all
.PHONY: all setup run test test-long test-asan fuzz fuzz-isa stress bench images install clean help

all: ## build $(BUILD)/ring3
	@scripts/build.sh $(BUILD)

setup: ## install the Debian packages that are missing (root or sudo)
	@scripts/setup.sh

run: ## build everything and boot Debian's kernel to a shell on this terminal
	@scripts/setup.sh --if-needed
	@scripts/build.sh $(BUILD)
	@scripts/run.sh $(KIND)

test: ## set up and run every test, some fifteen minutes on two cores
	@scripts/setup.sh --if-needed
	@scripts/test.sh

test-long: ## whole systems, from Debian's packages: some twenty minutes, and five to make their images
	@scripts/setup.sh --if-needed
	@scripts/test.sh long

test-asan: ## unit, isa and guest tests under the address and undefined-behaviour sanitizers
	@scripts/setup.sh --if-needed
	@scripts/test.sh asan

fuzz: ## fuzz until stopped; TARGET=interpret_fuzz for only that one
	@scripts/fuzz.sh $(TARGET)

fuzz-isa: ## compare with the host's processor until stopped or a difference is found
	@scripts/build.sh $(BUILD) tests/isa/isa_test
	@$(BUILD)/tests/isa/isa_test --forever

stress: ## random stress guests on every engine against the interpreter; SECONDS=3600 for an hour
	@scripts/stress.sh $(or $(SECONDS),60)

bench: ## measure against native and against QEMU, about twelve minutes (RUNS=1 MS=50: four)
	@scripts/setup.sh --if-needed --bench || true
	@scripts/build.sh $(BUILD)
	@bench/run.sh

install: all ## install under PREFIX as configured
	@meson install -C $(BUILD)

clean: ## remove what was built; downloaded kernels stay in .cache
	@scripts/build.sh --clean $(BUILD)

help: ## this list
	@echo "ring3: what make can do"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | sed 's|$$(BUILD)|$(BUILD)|g' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

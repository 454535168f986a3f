# For people who have meson and ninja already; ./run and ./check install what is missing first.
DESTDIR ?=
PREFIX  ?= /usr/local
SOURCES  = $(wildcard base/*.[ch] x86/*.[ch] mem/*.[ch] cpu/*.[ch] engine/*.[ch] engine/*/*.[ch] \
             dev/*.[ch] boot/*.[ch] pv/*.[ch] vm/*.[ch] cli/*.[ch] include/*.h test/*/*.[ch])

all:
	@tools/build.sh build

check:
	@./check

# BENCH: options of bench/bench.sh
bench: all
	@bench/bench.sh $(BENCH)

install: all
	@meson configure build -Dprefix="$(PREFIX)" >/dev/null
	@DESTDIR="$(DESTDIR)" meson install -C build --quiet

format:
	clang-format -i $(SOURCES)

tidy: all
	clang-tidy -p build --quiet $(filter %.c,$(SOURCES))

clean:
	rm -rf build build-*

.PHONY: all check bench install format tidy clean

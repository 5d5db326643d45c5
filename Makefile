# `make` lists the targets. Paths of an installation: PREFIX for programs and units, SYSCONFDIR for configuration, DESTDIR in front of all.

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
DESTDIR    ?=
CARGO      ?= cargo

bindir        = $(DESTDIR)$(PREFIX)/bin
unitdir       = $(DESTDIR)$(PREFIX)/lib/systemd/system
sysusersdir   = $(DESTDIR)$(PREFIX)/lib/sysusers.d
confdir       = $(DESTDIR)$(SYSCONFDIR)/coord
target        = $(or $(CARGO_TARGET_DIR),target)
programs      = coordctl coordinator coord-agent
newest_etcd   = $(abspath $(target))/etcd/newest/usr/bin

.DEFAULT_GOAL := help
.PHONY: help build release install demo test bench simulate fuzz lint test-rust test-etcd fmt clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

build:  ## what demo and tests run (target/debug)
	$(CARGO) build --locked

release:  ## what is shipped (target/release); installs compilers if they are missing
	tests/setup build
	$(CARGO) build --release --locked

install:  ## the release into PREFIX (and DESTDIR); keeps configuration files that exist
	@for program in $(programs); do \
	    test -x $(target)/release/$$program || { echo "install: no $(target)/release/$$program; run \`make release\` first" >&2; exit 1; }; \
	done
	install -d $(bindir) $(unitdir) $(sysusersdir) $(confdir)
	install -m 755 $(programs:%=$(target)/release/%) $(bindir)
	for unit in coord-agent coord-wait@ coordinator; do \
	    sed 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|; s|/etc/coord/|$(SYSCONFDIR)/coord/|' systemd/system/$$unit.service >$(unitdir)/$$unit.service && \
	    chmod 644 $(unitdir)/$$unit.service || exit 1; \
	done
	install -m 644 systemd/sysusers.d/coordinator.conf $(sysusersdir)
	test -e $(confdir)/agent.toml || install -m 644 agent/src/default-agent.toml $(confdir)/agent.toml
	test -e $(confdir)/coordinator.toml || install -m 644 coordinator/src/default-coordinator.toml $(confdir)/coordinator.toml

demo:  ## etcd, a coordinator, three agents, two releases of a sample application (KEEP=1: stay up)
	tests/setup demo
	$(MAKE) build
	KEEP=$(KEEP) tests/demo

test:  ## installs what is missing, then lint and every test
	tests/setup test
	$(MAKE) lint
	$(MAKE) test-rust
	$(MAKE) test-etcd

bench:  ## what a deploy costs, beside its goals (make bench ARGS=staging; that one as root)
	tests/setup bench
	$(MAKE) release
	$(CARGO) run --release --locked --package coord-tests --bin bench -- $(ARGS)

simulate:  ## planner, agents and migrations against each other, seed by seed (make simulate SEEDS=10000 SERVERS=50 FIRST=1 JOBS=1)
	$(CARGO) run --release --locked --package coord-tests --bin simulate -- \
	    --first $(or $(FIRST),1) --seeds $(or $(SEEDS),1000) --servers $(or $(SERVERS),50) --jobs $(or $(JOBS),1)

# Instrumentation is what RUSTC_BOOTSTRAP is for; what is shipped is never built so.
fuzz:  ## what strangers' bytes go through, under a fuzzer (make fuzz MINUTES=30 TARGET="manifest envelope archive config")
	tests/setup fuzz
	$(CARGO) run --quiet --locked --package coord-tests --bin fuzz-seeds -- $(target)/fuzz/corpus
	@for name in $(or $(TARGET),manifest envelope archive config); do \
	    mkdir -p $(target)/fuzz/findings/$$name; \
	    RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_LTO=off $(CARGO) fuzz run --fuzz-dir tests/fuzz --features libfuzzer --target-dir $(target)/fuzz/build $$name \
	        $(target)/fuzz/corpus/$$name -- -max_total_time=$$((60 * $(or $(MINUTES),1))) -timeout=10 -rss_limit_mb=1024 \
	        -artifact_prefix=$(target)/fuzz/findings/$$name/ -print_final_stats=1 || exit 1; \
	done

lint:  ## format, clippy, documentation, dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --workspace --locked
	$(CARGO) deny check bans licenses sources

test-rust: build  ## every test, without the set-up (make test-rust ARGS='-E "package(coord-proto)"')
	@echo "test: on `etcd --version | head -n1`"
	$(CARGO) nextest run --workspace --locked $(ARGS)

# The store, the managed etcd, and the main job: the rest does not know which etcd it is.
test-etcd: build  ## what speaks to etcd, on the newest one (tests/setup fetches it)
	@if test -x $(newest_etcd)/etcd; then echo "test: on `$(newest_etcd)/etcd --version | head -n1`"; \
	else echo "test: no etcd in $(newest_etcd); nothing was run on the newest one"; fi
	test ! -x $(newest_etcd)/etcd || COORD_TEST_ETCD=$(newest_etcd)/etcd COORD_TEST_ETCDCTL=$(newest_etcd)/etcdctl \
	    $(CARGO) nextest run --workspace --locked \
	    -E 'binary(store) - test(/^memory::/) + test(three_releases_) + package(coordinator) & (test(/^managed_etcd::/) + binary(run))'

fmt:  ## formats the code
	$(CARGO) fmt

clean:  ## removes target/
	$(CARGO) clean

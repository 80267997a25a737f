# posthaste: GNU make. `make help` lists the targets.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
# The configuration file that the programs look for is /etc/posthaste/posthaste.toml wherever they are installed.
SYSCONFDIR ?= /etc
SBINDIR ?= $(PREFIX)/sbin
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
DOCDIR  ?= $(PREFIX)/share/doc/posthaste
# SENDMAIL=yes also installs the names sendmail, mailq and newaliases. Not by default: they may belong to another MTA.
SENDMAIL ?= no

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
INSTALL ?= install
PAGES   := $(wildcard man/*.[1-9])
# The sample, init scripts and the rest; the demo's configuration is of no use there.
ETC     := $(filter-out etc/demo.toml,$(wildcard etc/*.*))
TARGET  := $(or $(CARGO_TARGET_DIR),target)
DAEMON  := $(TARGET)/release/posthasted
TOOL    := $(TARGET)/release/posthaste

.PHONY: all help check fmt lint man rules bans deny test peers faults-short torture fuzz-short fuzz demo run bench growth \
	deps install install-bin uninstall dist clean

all: ## build posthasted and posthaste (optimised)
	$(CARGO) build --release --locked --bins

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

# --- what a change has to pass -------------------------------------------------------------------------------------

check: fmt lint man rules bans test fuzz-short peers faults-short ## everything a change has to pass; the project's test command
	@echo "check: all passed"

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings

man:
	mandoc -T lint -W warning $(PAGES)

rules: ## every rule of the core has a test that exists, or a reason
	python3 tests/tools/rules.py check

bans: ## licences, banned and duplicate crates, no async code (reads deny.toml)
	python3 tests/tools/bans.py

deny: ## the same by cargo-deny, with whatever advisories are at hand
	$(CARGO) fetch --locked --quiet
	$(CARGO) deny --offline check licenses bans sources

# --lib, --bins and --tests at once; documentation tests need a run of their own.
test: ## unit tests, scenarios, documentation tests
	$(CARGO) test --locked --lib --bins --tests
	$(CARGO) test --locked --doc

peers: all tools ## real programs around a real daemon: tests/peers
	bash tests/peers/run

faults-short: all ## disks, clocks and limits that fail under a real daemon, seconds of each: tests/faults
	bash tests/faults/run short

# What `make check` takes a sample of: tests/torture/README.md.
torture: all tools ## kill -9 at every instant, thousands of power cuts, faults of disks, clocks and limits
	ROUNDS=200 LONG=1 PEER_TIMEOUT=3600 bash tests/peers/run killed instants power starts
	bash tests/faults/run

# The seed is fixed, so that the same tree is judged the same everywhere; `make fuzz` takes a new one each time.
fuzz-short: ## each fuzz target for a moment, and all inputs that once failed
	$(CARGO) run --locked --quiet --release --example fuzz -- --seconds 4 --seed 1

fuzz: ## each fuzz target for a long while: make fuzz SECONDS=600
	$(CARGO) run --locked --quiet --release --example fuzz -- --seconds $(or $(SECONDS),120)

# --- to look at ----------------------------------------------------------------------------------------------------

.PHONY: tools
tools:
	$(CARGO) build --locked --quiet --release --example dns --example reopen

demo: deps all tools ## mail through a real queue to real receivers on loopback, to watch
	bash tests/demo/demo.sh

run: all tools ## the same daemon in the foreground, to play with
	bash tests/demo/run.sh

bench: all ## posthaste beside Postfix and chasquid, in one run (root): make bench QUICK=1, COUNT=, ROUNDS=, ROWS="keep large"
	bash tests/bench/run.sh $(ROWS)

growth: all ## the daemon while very many recipients wait (root): make growth WAITING="1000 1000000"
	bash tests/bench/growth.sh $(WAITING)

# --- to have -------------------------------------------------------------------------------------------------------

deps: ## install by apt-get what is lacking for all of the above
	@bash tests/tools/deps.sh

install: all install-bin ## honours DESTDIR, PREFIX, SENDMAIL=yes; keeps an existing configuration

# For packagers who have built already.
install-bin:
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8 \
		$(DESTDIR)$(DOCDIR)/etc $(DESTDIR)$(SYSCONFDIR)/posthaste
	$(INSTALL) -m 755 $(DAEMON) $(DESTDIR)$(SBINDIR)/posthasted
	$(INSTALL) -m 755 $(TOOL) $(DESTDIR)$(BINDIR)/posthaste
	$(INSTALL) -m 644 $(filter %.5,$(PAGES)) $(DESTDIR)$(MANDIR)/man5/
	$(INSTALL) -m 644 $(filter %.8,$(PAGES)) $(DESTDIR)$(MANDIR)/man8/
	$(INSTALL) -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE $(DESTDIR)$(DOCDIR)/
	for file in $(ETC); do \
		sed 's|/usr/local/sbin|$(SBINDIR)|g' "$$file" >$(DESTDIR)$(DOCDIR)/"$$file" || exit 1; \
		chmod 644 $(DESTDIR)$(DOCDIR)/"$$file"; \
	done
	@if [ -e $(DESTDIR)$(SYSCONFDIR)/posthaste/posthaste.toml ]; then \
		echo "kept $(DESTDIR)$(SYSCONFDIR)/posthaste/posthaste.toml; the new sample is in $(DOCDIR)/etc"; \
	else \
		$(INSTALL) -m 644 etc/posthaste.toml $(DESTDIR)$(SYSCONFDIR)/posthaste/posthaste.toml; \
	fi
ifeq ($(SENDMAIL),yes)
	ln -sf $(BINDIR)/posthaste $(DESTDIR)$(SBINDIR)/sendmail
	ln -sf $(BINDIR)/posthaste $(DESTDIR)$(BINDIR)/mailq
	ln -sf $(BINDIR)/posthaste $(DESTDIR)$(BINDIR)/newaliases
endif

# The configuration and the queue stay. Links are removed only if they are ours.
uninstall: ## removes what install put there, but neither configuration nor queue
	rm -f $(DESTDIR)$(SBINDIR)/posthasted $(DESTDIR)$(BINDIR)/posthaste
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man5/,$(notdir $(filter %.5,$(PAGES))))
	rm -f $(addprefix $(DESTDIR)$(MANDIR)/man8/,$(notdir $(filter %.8,$(PAGES))))
	rm -rf $(DESTDIR)$(DOCDIR)
	@for link in $(DESTDIR)$(SBINDIR)/sendmail $(DESTDIR)$(BINDIR)/mailq $(DESTDIR)$(BINDIR)/newaliases; do \
		if [ "$$(readlink "$$link")" = "$(BINDIR)/posthaste" ]; then rm -f "$$link"; fi; \
	done
	@echo "kept $(SYSCONFDIR)/posthaste and the queue"

dist: ## dist/posthaste-VERSION.tar.gz of what is committed
	mkdir -p dist
	git archive --format=tar.gz --prefix=posthaste-$(VERSION)/ -o dist/posthaste-$(VERSION).tar.gz HEAD
	@ls -l dist/posthaste-$(VERSION).tar.gz

clean: ## removes what was built
	$(CARGO) clean
	rm -rf dist

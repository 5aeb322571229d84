# make book | student | instructor | slides | test | paths | fuzz | serve | bundle | pdf | bench | outputs | records | explorer | clean
# needs Python 3.11 to 3.13 and nothing else, pdf a TeX too
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
# Two workers; the cells of one notebook stay in one of them.
PYTEST ?= -n 2 --dist loadfile
# TORCH=cpu: on Linux without a GPU, take PyTorch's own CPU packages instead of several GB of CUDA libraries.
PIP_cpu := --extra-index-url https://download.pytorch.org/whl/cpu

# No page and no test needs a model hub; timm then says so at once instead of after a minute.
export HF_HUB_OFFLINE ?= 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: book student instructor slides test paths fuzz serve bundle pdf bench outputs records explorer clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and f"Python 3.11 to 3.13 is needed, {sys.executable} is {sys.version.split()[0]}")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_$(TORCH)) -c constraints.txt -e ".[book,spiking,test]"
	touch $@

# jupyter-cache and Sphinx see that a notebook changed, but not that the library or the data that it reads did.
INPUTS := $(shell find epimlib data constraints.txt -type f ! -name '*.pyc' ! -path 'data/cache/*' | LC_ALL=C sort | xargs cksum | cksum | cut -d ' ' -f 1)
.jupyter_cache/$(INPUTS):
	rm -rf .jupyter_cache _build/.doctrees && mkdir .jupyter_cache && touch $@

# Sphinx leaves the pages of removed chapters behind.
_build/settings: _toc.yml _config.yml $(wildcard book/_ext/*)
	rm -rf _build/html && mkdir -p _build && touch $@

# Sphinx runs one notebook after another, so those that changed run before it, one for each processor core; one that
# fails here fails again in the build, which then ends.
book: $(VENV)/.installed .jupyter_cache/$(INPUTS) _build/settings
	$(BIN)/jcache notebook -p .jupyter_cache add notebooks/*.ipynb notebooks/solutions/*.ipynb >/dev/null
	OMP_NUM_THREADS=1 $(BIN)/jcache project -p .jupyter_cache execute --executor local-parallel --timeout 300
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is _build/html/index.html; make serve shows it in a browser."

# The book without solutions, for a class, and with the guide, for who teaches it.
student instructor: book
	$(BIN)/python book/editions.py $@

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

# The notebooks that use PyTorch, once more: with the oldest kernels of this processor's libraries, and
# without oneDNN. What they assert must not depend on either.
NETWORKS := $(shell grep -lw torch notebooks/*.ipynb notebooks/solutions/*.ipynb)
paths: export OMP_NUM_THREADS := 1
paths: $(VENV)/.installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(BIN)/python -m pytest $(PYTEST) $(NETWORKS)
	PYTHONPATH=$(CURDIR)/.ci/without_onednn $(BIN)/python -m pytest $(PYTEST) $(NETWORKS)

# Random allowed parameters, FUZZ sets for each notebook, other ones each time.
FUZZ ?= 14
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 FUZZ_SETS=$(FUZZ) FUZZ_FIRST=$$(date +%s) $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

serve: book
	@echo "http://127.0.0.1:$(PORT)/  (Ctrl-C ends it)"
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# A deck of slides for each chapter, and one for a lecture; book/slides holds what stands on them.
slides: book
	$(BIN)/python book/slides.py

# One file for a USB stick: the book, and everything that it was made from.
bundle: book
	$(BIN)/python book/bundle.py

# The book as ePub, which needs nothing more, and as PDF.
pdf: book
	$(BIN)/jupyter-book build . -n --keep-going --path-output _build/paper --builder custom --custom-builder epub
	cp _build/paper/_build/epub/epim.epub _build/epim.epub
	@for program in latexmk xelatex rsvg-convert; do command -v $$program >/dev/null || { echo "The ePub is _build/epim.epub; the PDF needs $$program: on Debian, install latexmk texlive-xetex texlive-latex-extra texlive-fonts-recommended librsvg2-bin" >&2; exit 1; }; done
	$(BIN)/jupyter-book build . -n --keep-going --path-output _build/paper --builder pdflatex
	cp _build/paper/_build/latex/epim.pdf _build/epim.pdf
	@echo "The book is _build/epim.pdf and _build/epim.epub."

bench: $(VENV)/.installed
	for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# The outputs that nbval compares, computed anew and written into the notebooks: read the difference before you commit.
outputs: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/refresh.py

# The records of every notebook's quick profile, with its time on this machine. Commit before: a record names the commit.
records: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/records.py quick

# Python for the page Explore, fetched once; the next `make book` adds it. NUMPY=FILE or an address is another source of
# NumPy's wheel than Pyodide's own distribution.
explorer: $(VENV)/.installed
	$(BIN)/python book/_ext/explore_files.py $(NUMPY)

clean:
	rm -rf _build .jupyter_cache

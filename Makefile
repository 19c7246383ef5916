# The book's commands. `make` alone lists them.
PYTHON ?= python3
PORT ?= 8000
JOBS ?= 2
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
BUILD = $(BIN)/jupyter-book build . -W -n --keep-going --quiet
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout 300 \
	--nbval-sanitize-with tests/sanitize.cfg
# Workers follow the cores; tests/conftest.py says what a worker is given at a time.
PYTEST = --doctest-modules -n auto --dist loadscope --no-loadscope-reorder
# What `make check` leaves to `make test`: compilers, peers, and the tests of the tests.
SHORT = not (compile or one_graph or export or twins or bench or variants or mutants \
	or warm or sharing)

.DEFAULT_GOAL := help
.PHONY: help setup book test check portable run serve lint bench student pdf publish-dry pins clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-13s %s\n", $$1, $$2}' Makefile

setup:
	@$(PYTHON) _tools/setup.py

book: setup  ## build the HTML book, without a single warning
	@$(BUILD) >/dev/null || { rm -rf _build/.doctrees; exit 1; }
	@echo "The book is built: open _build/html/index.html"

test: book lint  ## lint, all tests, every notebook, every page (ONLY=se for a chapter)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(NBVAL) $(PYTEST) \
	    $(if $(ONLY),--only $(ONLY)) chapters cvattn tests

check: lint  ## the short answer: lint, contracts, values, notebooks' form
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not browser" -k "$(SHORT)" \
	    -q cvattn $(wildcard tests/test_*.py) tests/book/test_notebooks.py

portable: setup  ## notebooks and tests as on other machines (ROWS="avx2-1 …")
	@$(BIN)/python _tools/portable.py $(ROWS)

run: setup  ## execute the notebooks again, in place (ONLY=chapters/se.ipynb for one)
	@$(BIN)/python _tools/run.py --jobs $(JOBS) $(ONLY)

serve: book  ## show the book on http://127.0.0.1:8000 (PORT=… for another)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lint: setup  ## ruff over code and notebooks, zizmor over the workflows
	@$(BIN)/ruff check .
	@$(BIN)/zizmor --offline --pedantic --quiet .github

bench: setup  ## time and memory of every module beside its peers (BENCH=--quick, …)
	@$(BIN)/python -m benchmarks.bench $(BENCH)

student: setup  ## write the student edition, without solutions
	@$(BIN)/python _tools/student.py

pdf: setup  ## build the book as PDF (needs XeLaTeX)
	@for tool in xelatex latexmk xindy; do \
	    command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	    echo "The PDF needs$$missing. On Debian:"; \
	    echo "apt install texlive-xetex latexmk texlive-latex-recommended" \
	        "texlive-latex-extra texlive-fonts-recommended tex-gyre" \
	        "fonts-freefont-otf xindy"; \
	    exit 1; fi
	@$(BIN)/jupyter-book build . --builder pdflatex --quiet
	@echo "The PDF is built: open _build/latex/attention-in-computer-vision.pdf"

publish-dry: setup  ## publish into a local repository, to see that it works
	@$(BIN)/python _tools/publish.py --dry

pins:  ## write requirements.txt anew (needs uv)
	@_tools/pin.sh

clean:  ## remove what was built; .venv stays
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache

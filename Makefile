# Thin: every line can also be run by hand from the root of the checkout.
PYTHON ?= python3
BIN := .venv/bin
HFT := $(BIN)/hft
DEMO := build/demo

.PHONY: run setup test check format site results

run: setup  ## build the database, rerun two papers and their baseline, regenerate README and site
	$(HFT) build
	$(HFT) run sft qi-finetuning-compromises vaccine --main --testbed micro --seeds 2 --ratios 0.1 --results $(DEMO)
	$(HFT) readme
	$(HFT) site

setup: .venv/installed  ## create .venv with the tested versions

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[reproduce,dev]'
	touch $@

test: check  ## everything CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(HFT) fmt --check
	$(HFT) check
	$(HFT) results verify

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(HFT) fmt

results: setup  ## measure what has no record yet: default grid, harder attacks, controls, sweeps, combinations
	$(HFT) run --all
	$(HFT) run --all --type defense --attack strong,steps-300,steps-600,lora
	$(HFT) run --all --arms
	$(HFT) run --all --arms --type defense --stage post-fine-tuning --attack strong
	$(HFT) run --all --type defense --stage alignment,fine-tuning --sweep --seeds 3
	$(HFT) run --all --type defense --stage post-fine-tuning --sweep --seeds 3 --attack strong
	$(HFT) run ldifs safety-tuned-llamas ptst shallow-vs-deep --ratios 0  # claims on ablations without harmful data
	$(HFT) run shallow-vs-deep --ratios 0 --task card  # its claims on accuracy ask for answers longer than a label
	$(HFT) run ldifs --sweep --ratios 0 --seeds 3  # its claims on forgetting take alpha 10
	$(HFT) run repnoise tar shallow-vs-deep --ratios 1 --n 400  # claims under purely harmful data; no more pairs are there
	$(HFT) run booster safe-lora --main --ratios 1 --n 400
	$(HFT) run safe-lora --main --attack strong --ratios 1 --n 400  # repairs adapters, which the strong attack trains
	$(HFT) run safe-lora --main --attack strong --ratios 0,0.05,0.2  # a trend over the harmful share
	$(HFT) run backdoor-enhanced-alignment --attack qi-finetuning-compromises:explicit  # its threat model
	$(HFT) run backdoor-enhanced-alignment --sweep --attack qi-finetuning-compromises:explicit --seeds 3  # a trend over the length of its trigger
	$(HFT) run ptst --attack qi-finetuning-compromises:benign-high-lr  # prompt templates matter on benign data
	$(HFT) run booster+lisa vaccine+antidote ptst+safe-lora --attack graded,strong --ratios 0.1
	$(HFT) run booster vaccine repnoise tar --main --attack shadow-alignment,lora-undoes-safety,removing-rlhf-gpt4
	$(HFT) run booster lisa safety-tuned-llamas safe-lora --main --attack removing-rlhf-gpt4,benign-data-breaks-safety
	$(HFT) run booster lisa safety-tuned-llamas --main --attack qi-finetuning-compromises
	$(HFT) run lisa booster safety-realignment antidote --main --attack covert-malicious-finetuning
	$(HFT) readme

site: setup
	$(HFT) site --serve

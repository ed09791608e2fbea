# Everything happens in .venv, made from constraints.txt; PyPI is the only source.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo demo-detect demo-segment test test-mmcv-ext lint bench gpu gpu-tune gpu-peers clean

install: .venv/installed

.venv/installed: setup.cfg setup.py constraints.txt $(wildcard statescan/kernels/*/*.[ch])
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'python3 has no venv module: install your system'"'"'s python3-venv package, then run make again.'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

.venv/peers: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

demo: install
	$(BIN)/python tools/demo_classify.py

# Cut-outs come from Debian's tuxpaint-stamps-default, by apt-get; ARGS="--sprites FOLDER" gives others.
demo-detect: install
	$(BIN)/python tools/demo_scenes.py detect $(ARGS)

demo-segment: install
	$(BIN)/python tools/demo_scenes.py segment $(ARGS)

test: install lint .venv/peers
	# Waiting OpenMP threads sleep instead of spinning: slower alone, many times faster on a busy machine.
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

# mmcv's compiled operators beside the stand-ins for them, in an environment of their own.
# WHEEL=path takes an onedl-mmcv wheel that has them; without, they are compiled: about 25 minutes.
test-mmcv-ext: .venv-mmcv-ext/installed
	PYTHONPATH=. OMP_WAIT_POLICY=passive .venv-mmcv-ext/bin/python tests/mm/ops/compare_ops.py

# It sees the packages of .venv, after its own.
.venv-mmcv-ext/installed: .venv/installed $(WHEEL)
	$(BIN)/python -m venv --clear .venv-mmcv-ext
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-mmcv-ext/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(if $(WHEEL),,.venv-mmcv-ext/bin/pip install --quiet 'setuptools >= 80, < 82' wheel packaging ninja psutil)
	MMCV_WITH_OPS=1 .venv-mmcv-ext/bin/pip install --quiet --no-deps --no-cache-dir --force-reinstall \
		$(or $(WHEEL),--no-build-isolation --no-binary onedl-mmcv -c constraints.txt onedl-mmcv)
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: install .venv/peers
	$(BIN)/python benchmarks/selective_scan.py
	$(BIN)/python benchmarks/models.py

# With the python3 that has torch, triton, timm, pytest and hypothesis; nothing is installed.
# STEPS picks some: tests, scans, models, compiled. Results go to $$OUT too where that is set.
gpu:
	@PYTHONPATH=. $(PYTHON) benchmarks/on_gpu.py $(STEPS)

gpu-tune:
	@PYTHONPATH=. $(PYTHON) benchmarks/gpu.py --tune

gpu-peers:
	@PYTHONPATH=. $(PYTHON) benchmarks/mamba_ssm_peer.py

clean:
	rm -rf .venv .venv-mmcv-ext work_dirs build dist *.egg-info

# The image of everything that 'export' writes: head, workers, MLflow, the run of a compose file.
#
#   docker build --tag orchestrator:0.1.0-cuda .
#   docker build --tag orchestrator:0.1.0-cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#
# PyTorch's own wheels bring CUDA and NCCL; the driver is the node's. DeepSpeed operators that are compiled when
# they are first used (offloaded optimizers) need nvcc: build on an image that has it, with Python 3.11 to 3.13,
#   --build-arg BASE=…
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}

# Where PyTorch comes from; empty is PyPI, whose wheels are those for CUDA.
ARG TORCH_INDEX=""

# libibverbs and its providers: by these NCCL finds InfiniBand, RoCE and EFA. rsync and ssh: for 'ray up'.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libibverbs1 ibverbs-providers librdmacm1 openssh-client procps rsync \
    && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid 1000 orchestrator \
    && useradd --uid 1000 --gid 1000 --create-home orchestrator \
    && install --directory --owner=1000 --group=1000 /workspace /runs /artifacts /home/orchestrator/.ray

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /workspace

# What changes seldom comes first: the environment, in the versions that were tested together.
COPY pyproject.toml README.md LICENSE ./
COPY infra/constraints.txt infra/constraints.txt
RUN if [ -n "$TORCH_INDEX" ]; then \
        python -m pip install --constraint infra/constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi \
    && python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" \
        > /tmp/dependencies.txt \
    && python -m pip install --constraint infra/constraints.txt --requirement /tmp/dependencies.txt \
        "psycopg[binary]==3.3.9" "tokenizers>=0.20" \
    && rm /tmp/dependencies.txt

COPY orchestrator orchestrator
COPY conf conf
COPY jobs jobs
RUN python -m pip install --no-deps . && python -m orchestrator --version

USER 1000:1000
CMD ["python", "-m", "orchestrator", "--help"]

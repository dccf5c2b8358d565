# syntax=docker/dockerfile:1
# Two programs, two targets: `app` (the HTTP door, no torch) and `worker` (trains).
#   docker build --target app -t lrtune-app .
#   docker build --target worker -t lrtune-worker .                                     with CUDA, several GB
#   docker build --target worker -t lrtune-worker --build-arg TORCH_INDEX=<index> .     on a CPU, where <index> is the
#       address of CPU builds that PyTorch's "Get Started" page names for pip

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PATH=/venv/bin:$PATH
RUN python -m venv /venv \
    && useradd --uid 10001 --create-home lrtune \
    && install --directory --owner lrtune /srv/lrtune /data /states
WORKDIR /srv/lrtune

FROM base AS app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lrtune lrtune
COPY migrations migrations
COPY app app
RUN pip install -c constraints.txt '.[app]'
USER lrtune
ENV LRTUNE_DATA_DIR=/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["lrtune", "serve", "--host", "0.0.0.0"]

FROM base AS worker
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt README.md LICENSE ./
# torch first: it is most of the image, and changes least
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY lrtune lrtune
COPY worker worker
# `lrtune doctor`, which needs nothing of the server's
COPY app app
# with what its tasks and optimizers need beside torch, and what Ray's own jobs do; KubeRay asks its pods by wget if they live
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && pip install -c constraints.txt '.[worker,huggingface,optimizers,ray]' 'ray[default]'
USER lrtune
ENV LRTUNE_DATA_DIR=/data
# SIGTERM releases the trial in hand, so that another worker takes it; give it a report's time to do so
STOPSIGNAL SIGTERM
CMD ["lrtune", "worker"]

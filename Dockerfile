# The server as an image, for GPUs on vLLM's official image or for CPUs on Debian
# (docs/gpu-hosts.md):
#   docker build -t composer .
#   docker build -t composer:cpu --build-arg ENGINE=cpu .
# Where pip needs a configuration, such as that of a mirror: --secret id=pip.conf,src=/etc/pip.conf
ARG ENGINE=cuda
ARG CUDA_BASE=vllm/vllm-openai:v0.32.0
ARG CPU_BASE=debian:12.12-slim

# vLLM, torch and what they need are in the base image; only what it lacks is added.
FROM ${CUDA_BASE} AS cuda
COPY requirements/image.lock /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip install --no-cache-dir --no-deps --requirement /tmp/image.lock \
    && rm /tmp/image.lock

# Debian keeps only the newest version of a package, so that none can be pinned.
FROM ${CPU_BASE} AS cpu-packages
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        libnuma1 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY scripts scripts
COPY requirements/cpu.lock requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    PIP_NO_CACHE_DIR=1 python3 -m scripts.setup --extra cpu --packages-only --venv /opt/composer \
    && /opt/composer/bin/python -m pip uninstall --yes pip \
    && rm /opt/composer/setup.log

FROM ${CPU_BASE} AS cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates libnuma1 libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=cpu-packages /opt/composer /opt/composer
ENV PATH=/opt/composer/bin:$PATH

# hadolint ignore=DL3006
FROM ${ENGINE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="composer-serve" \
      org.opencontainers.image.description="Serve arithmetic over language models, on vLLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}"

# A fixed number, so that Kubernetes can check runAsNonRoot and volumes can be given to it. The home
# holds the caches of compiled kernels.
RUN useradd --uid 10001 --user-group --create-home composer \
    && mkdir -p /models /adapters /state \
    && chown composer:composer /models /adapters /state

WORKDIR /app
COPY LICENSE ./
COPY composer composer
COPY adapters adapters
COPY server server

# Models that are named by their Hugging Face id are downloaded into the volume.
ENV HF_HOME=/models/huggingface PYTHONUNBUFFERED=1

USER 10001:10001
VOLUME ["/models", "/adapters", "/state"]
EXPOSE 8000

# http.client goes past any proxy that the container's environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 CMD ["python3", "-c", \
    "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/ready'); sys.exit(c.getresponse().status != 200)"]

# The server is the container's first process: it drains at SIGTERM, for up to 30 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "server", "--host", "0.0.0.0", \
    "--adapter-store", "/state/adapters", "--adapter-root", "/adapters"]
CMD ["--model", "/models/base"]

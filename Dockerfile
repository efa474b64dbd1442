# The server on vLLM's official image:
#   docker build -t composer .
#   docker run --gpus all -p 8000:8000 -v $PWD/zoo/models:/models -v $PWD/zoo/adapters:/adapters \
#     composer --model /models/base --adapters polite=/adapters/polite,rude=/adapters/rude
# It finishes requests in flight for up to 30 s (--drain-seconds), so give it the time:
#   docker stop --time 60 CONTAINER
ARG BASE_IMAGE=vllm/vllm-openai:v0.32.0
FROM ${BASE_IMAGE}

# vLLM, torch and what they need are in the base image; only what it lacks is added.
COPY requirements/image.lock /tmp/image.lock
RUN python3 -m pip install --no-cache-dir --no-deps -r /tmp/image.lock && rm /tmp/image.lock

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

# The gang scheduler works with vLLM's first model runner.
ENV VLLM_USE_V2_MODEL_RUNNER=0

USER 10001:10001
VOLUME ["/models", "/adapters", "/state"]
EXPOSE 8000

# http.client goes past any proxy that the container's environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 CMD ["python3", "-c", \
    "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["python3", "-m", "server", "--host", "0.0.0.0", \
    "--adapter-store", "/state/adapters", "--adapter-root", "/adapters"]
CMD ["--model", "/models/base"]

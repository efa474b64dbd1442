# vllm-router, which compose.yaml puts before two servers.
FROM python:3.12.12-slim
RUN python3 -m pip install --no-cache-dir vllm-router==0.1.17 \
    && useradd --uid 10001 --user-group --create-home router
USER 10001:10001
ENTRYPOINT ["vllm-router"]

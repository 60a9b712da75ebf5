# One image for every process: gateway, workers, scheduler, Flower, simulator, commands.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /build \
    && python -m venv --without-pip /opt/llmgine
WORKDIR /source
# Before the code, so that a change of code installs nothing again. Wheels only: an sdist
# would run its author's code here.
COPY requirements.build.lock requirements.server.lock ./
RUN /build/bin/pip install --require-hashes --only-binary :all: \
        -r requirements.build.lock \
    && /build/bin/pip --python /opt/llmgine/bin/python install --require-hashes \
        --only-binary :all: -r requirements.server.lock
COPY pyproject.toml README.md LICENSE ./
COPY chains chains
COPY gateway gateway
COPY llmgine_workers llmgine_workers
COPY deploy/alive /opt/llmgine/bin/alive
# A .pth file runs at every start of Python: none of ours does, so one would be hostile.
RUN /build/bin/hatchling build --target wheel --directory /wheel \
    && /build/bin/pip --python /opt/llmgine/bin/python install --no-deps --no-index \
        /wheel/*.whl \
    && test -z "$(find /opt/llmgine -name '*.pth')"

FROM ${BASE_IMAGE}
# Calls to providers trust the system's certificates.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
    && groupadd --gid 10001 llmgine \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin llmgine
COPY --from=build /opt/llmgine /opt/llmgine
ENV PATH=/opt/llmgine/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LLMGINE_HEALTH__FILE=/tmp/llmgine-alive
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["llmgine"]
CMD ["--help"]

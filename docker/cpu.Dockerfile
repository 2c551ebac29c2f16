# The runtime on a CPU, x86-64 or aarch64, without PyTorch.  docs/docker.md says what was checked.
#   docker build -f docker/cpu.Dockerfile -t nemu:cpu .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY LICENSE README.md nemu.py pyproject.toml ./
COPY runtime runtime
COPY train train
COPY export export
RUN python3 -m venv /opt/nemu \
    && /opt/nemu/bin/pip install --no-cache-dir ".[video,parquet]"

FROM ${BASE}
COPY --from=build /opt/nemu /opt/nemu
ENV PATH=/opt/nemu/bin:$PATH XDG_CACHE_HOME=/cache
RUN useradd --uid 10001 --create-home nemu && mkdir -m 1777 /data /cache
USER 10001
WORKDIR /data
VOLUME ["/data", "/cache"]
ENTRYPOINT ["nemu"]
CMD ["--help"]

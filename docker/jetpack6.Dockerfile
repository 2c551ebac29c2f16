# For Orin with JetPack 6.1 to 6.2: builds engines and runs them, without PyTorch.  docs/docker.md says what was
# checked.  On the board, in this folder:
#   docker build -f docker/jetpack6.Dockerfile -t nemu:jetpack6 .
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Looked for and not imported: it links to libraries that NVIDIA's runtime mounts when a container starts.
RUN python3 -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('tensorrt'))"

WORKDIR /src
COPY LICENSE README.md nemu.py pyproject.toml ./
COPY runtime runtime
COPY train train
COPY export export
RUN python3 -m venv --system-site-packages /opt/nemu \
    && /opt/nemu/bin/pip install --no-cache-dir ".[jetson,export,video]"

ENV PATH=/opt/nemu/bin:$PATH XDG_CACHE_HOME=/cache
RUN useradd --uid 10001 --create-home --groups video nemu && mkdir -m 1777 /data /cache
USER 10001
WORKDIR /data
VOLUME ["/data", "/cache"]
ENTRYPOINT ["nemu"]
CMD ["--help"]

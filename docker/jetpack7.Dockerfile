# For Thor with JetPack 7.0 or 7.1, and with the arguments below for 7.2 (Thor, Orin): builds engines and runs them,
# without PyTorch.  TensorRT comes from JetPack's own packages.  docs/docker.md says what was checked.  On the board:
#   docker build -f docker/jetpack7.Dockerfile -t nemu:jetpack7 .
#   JetPack 7.2: --build-arg L4T=r39.2 --build-arg CUDA=13-2
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG L4T=r38.4
ARG CUDA=13-0

ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /etc/apt/keyrings/nvidia-jetson.asc
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && chmod 644 /etc/apt/keyrings/nvidia-jetson.asc \
    && for part in common som; do \
        echo "deb [signed-by=/etc/apt/keyrings/nvidia-jetson.asc] https://repo.download.nvidia.com/jetson/$part $L4T main"; \
    done > /etc/apt/sources.list.d/nvidia-jetson.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        "cuda-cudart-$CUDA" python3-libnvinfer python3-venv tensorrt-libs \
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

ENV PATH=/opt/nemu/bin:$PATH XDG_CACHE_HOME=/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
RUN useradd --uid 10001 --create-home --groups video nemu && mkdir -m 1777 /data /cache
USER 10001
WORKDIR /data
VOLUME ["/data", "/cache"]
ENTRYPOINT ["nemu"]
CMD ["--help"]

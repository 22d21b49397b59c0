# Boxwright on NVIDIA GPUs, whose driver and container toolkit the host has. In the folder of the source:
#   docker build --file containers/cuda.Dockerfile --tag boxwright:cuda .
#   docker run --rm --gpus all --ipc host --volume "$PWD:/data" --user "$(id -u)" boxwright:cuda train --data data.yaml
FROM python:3.13-slim-bookworm

WORKDIR /opt/boxwright
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PyTorch's wheel for Linux brings CUDA and cuDNN along.
RUN pip install --no-cache-dir --constraint constraints.txt ".[gpu,plots,tensorboard,export]"

# Caches of any user, also of one whose number --user names and who has no home.
RUN useradd --uid 1000 --create-home boxwright && mkdir --mode 1777 /cache
ENV XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
USER 1000
# Here the folder of the caller is mounted.
WORKDIR /data
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["boxwright"]
CMD ["--help"]

# Boxwright on CPUs. In the folder of the source:
#   docker build --file containers/cpu.Dockerfile --tag boxwright:cpu .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u)" boxwright:cpu predict --weights best.pt --source photo.jpg
FROM python:3.13-slim-bookworm

RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /opt/boxwright
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# --torch-backend: PyTorch without CUDA, a tenth of the size.
RUN uv pip install --system --no-cache --torch-backend cpu --constraint constraints.txt ".[plots,tensorboard,export]"

# Caches of any user, also of one whose number --user names and who has no home.
RUN useradd --uid 1000 --create-home boxwright && mkdir --mode 1777 /cache
ENV XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
USER 1000
# Here the folder of the caller is mounted.
WORKDIR /data
ENTRYPOINT ["boxwright"]
CMD ["--help"]

# syntax=docker/dockerfile:1
# On a GPU (its driver and the NVIDIA Container Toolkit are the host's; torch's wheels bring CUDA along):
#   docker build -t esda .
#   docker run --rm --gpus all --shm-size=8g -v "$PWD/data/sets:/esda/data/sets" -v "$PWD/weights:/esda/weights" \
#       -v "$PWD/exp:/esda/exp" esda pascal all
# On a CPU, a smaller image:
#   docker build -t esda:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker run --rm --shm-size=2g esda:cpu shapes 0
# --shm-size: loader processes hand batches over in /dev/shm, of which Docker gives 64 MB. Each worker holds two batches
# ready; 8 images of 480 px are 7 MB. BASE may be any image with Python 3.10 or newer and apt, such as one of CUDA's.
# Not built where it was written: there was no Docker.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://pypi.org/simple
RUN apt-get update && apt-get install -y --no-install-recommends git g++ python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/esda
ENV VIRTUAL_ENV=/opt/esda PATH=/opt/esda/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /esda
COPY requirements.txt requirements-extra.txt ./
COPY data/requirements.txt data/
RUN python -m pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} \
    -r requirements.txt -r requirements-extra.txt -r data/requirements.txt
COPY . .
STOPSIGNAL SIGTERM
ENTRYPOINT ["bash", "train.sh"]
CMD ["shapes", "0"]

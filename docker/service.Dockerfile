# The service. Build arguments:
#
#   BUILD=cuda           serves on a CPU (by OpenVINO) and on a GPU. On Linux the plain torch of the package index
#                        brings CUDA with it, so the image is large: docs/operations.md has the sizes.
#   BUILD=cpu            a small image for CPUs alone. `make pins-cpu` first writes docker/constraints-cpu.txt, with the
#                        hashes of torch for CPUs, which another index has: name it in PIP_EXTRA_INDEX_URL.
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL   a mirror of the package index; further indexes
#
# The container needs no capability and no writable root: /data is its volume, and /var/tmp and /tmp are for temporary
# files. docker-compose.yml shows it.
FROM python:3.11-slim

ARG BUILD=cuda
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN useradd --create-home --uid 1000 reid && install --directory --owner reid --mode 700 /data

WORKDIR /src
COPY pyproject.toml constraints.txt docker/constraints-cpu.tx[t] docker/requirements.py README.md LICENSE ./
RUN if [ "$BUILD" = cpu ] && ! mv constraints-cpu.txt constraints.txt; then \
        echo "BUILD=cpu needs docker/constraints-cpu.txt, which make pins-cpu writes" >&2; exit 1; \
    fi
# Every file that is downloaded has its hash in constraints.txt. The pip that takes hashes from there comes first.
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > pip.txt && \
    pip install --no-cache-dir --require-hashes --requirement pip.txt
RUN python requirements.py "$BUILD" > requirements.txt && \
    pip install --no-cache-dir --require-hashes --constraint constraints.txt --requirement requirements.txt
COPY model model
COPY training training
COPY service service
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER 1000
WORKDIR /home/reid
ENV REID_HOST=0.0.0.0 REID_PORT=8000 REID_DATA_DIR=/data TMPDIR=/var/tmp PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000

# open raises, and so exits with 1, on a refused connection and on 503. ProxyHandler({}) goes without the proxy
# of the environment, which cannot reach this container's own loopback.
# A cold start takes 35 to 73 s, and took 132 s on a busy machine: torch is read, and the network is converted.
HEALTHCHECK --start-period=300s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['REID_PORT'] + '/readyz', timeout=4)"]

CMD ["reid", "serve"]

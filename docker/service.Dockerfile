# The service. On Linux the plain torch of the package index brings CUDA with it: the image is large, and the
# same one serves on a CPU (by OpenVINO) and on a GPU. An index of CPU builds makes it small: set PIP_INDEX_URL
# or PIP_EXTRA_INDEX_URL as a build argument, after `UV_INDEX=<the same> make pins` took its hashes into constraints.txt.
FROM python:3.11-slim

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN useradd --create-home --uid 1000 reid && install --directory --owner reid --mode 700 /data

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# Every file that is downloaded has its hash in constraints.txt. The pip that takes hashes from there comes first.
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > pip.txt && \
    pip install --no-cache-dir --require-hashes --requirement pip.txt
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p["dependency-groups"]["image"] + p["project"]["dependencies"], sep="\n")' > requirements.txt && \
    pip install --no-cache-dir --require-hashes --constraint constraints.txt --requirement requirements.txt
COPY model model
COPY training training
COPY service service
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER reid
WORKDIR /home/reid
ENV REID_HOST=0.0.0.0 REID_PORT=8000 REID_DATA_DIR=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000

# open raises, and so exits with 1, on a refused connection and on 503. ProxyHandler({}) goes without the proxy
# of the environment, which cannot reach this container's own loopback.
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['REID_PORT'] + '/readyz', timeout=4)"]

CMD ["reid", "serve"]

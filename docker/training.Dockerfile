# Training and evaluation: data in /datasets (read only), checkpoints out to /runs. The build arguments are those of
# service.Dockerfile; with BUILD=cuda a GPU is used where the container is given one.
#
#   docker compose run --rm training --recipe NAME --data /datasets/NAME --output /runs/NAME
FROM python:3.11-slim

ARG BUILD=cuda
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN useradd --create-home --uid 1000 reid && install --directory --owner reid /datasets /runs

WORKDIR /src
COPY pyproject.toml constraints.txt docker/constraints-cpu.tx[t] docker/requirements.py README.md LICENSE ./
RUN if [ "$BUILD" = cpu ] && ! mv constraints-cpu.txt constraints.txt; then \
        echo "BUILD=cpu needs docker/constraints-cpu.txt, which make pins-cpu writes" >&2; exit 1; \
    fi
# Every file that is downloaded has its hash in constraints.txt. The pip that takes hashes from there comes first.
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > pip.txt && \
    pip install --no-cache-dir --require-hashes --requirement pip.txt
RUN python requirements.py "$BUILD" training > requirements.txt && \
    pip install --no-cache-dir --require-hashes --constraint constraints.txt --requirement requirements.txt
COPY model model
COPY training training
COPY service service
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER 1000
WORKDIR /home/reid
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m", "training.train"]
CMD ["--help"]

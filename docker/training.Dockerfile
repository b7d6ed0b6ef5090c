# Training and evaluation: data in /datasets (read only), checkpoints out to /runs. torch is installed as in
# service.Dockerfile, so that a GPU is used where the container is given one.
#
#   docker compose run --rm training --recipe NAME --data /datasets/NAME --output /runs/NAME
FROM python:3.11-slim

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN useradd --create-home --uid 1000 reid && install --directory --owner reid /datasets /runs

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# Every file that is downloaded has its hash in constraints.txt. The pip that takes hashes from there comes first.
RUN sed -n '/^pip==/,/[^\\]$/p' constraints.txt > pip.txt && \
    pip install --no-cache-dir --require-hashes --requirement pip.txt
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p["dependency-groups"]["image"] + p["project"]["dependencies"] + p["project"]["optional-dependencies"]["training"], sep="\n")' > requirements.txt && \
    pip install --no-cache-dir --require-hashes --constraint constraints.txt --requirement requirements.txt
COPY model model
COPY training training
COPY service service
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER reid
WORKDIR /home/reid
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m", "training.train"]
CMD ["--help"]

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
COPY model model
COPY training training
COPY service service
COPY migrations migrations
RUN pip install --no-cache-dir --constraint constraints.txt ".[training]"

USER reid
WORKDIR /home/reid
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m", "training.train"]
CMD ["--help"]

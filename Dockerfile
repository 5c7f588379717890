# prunedeploy for CPUs: docs/install.md says how to build and run it.
FROM python:3.13-slim

# The compiler that sparse engines are built with.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

# torch first and alone: the index of its CPU builds has nothing else that is needed.
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    "$(grep '^torch==' constraints.txt)"

COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[cpu]'

RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["prunedeploy"]
CMD ["--help"]

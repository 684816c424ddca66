# syntax=docker/dockerfile:1
# For those who have Docker: docker build --target sqlited -t sqlited . (and --target sqlite-operator).
# Without it, `make image` makes the same images.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG PROFILE=release
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile $PROFILE -p node -p operator --bins && \
    for program in sqlited sqlite-operator; do \
      e2e/rootfs.sh target/$PROFILE/$program /root-$program && mkdir -m 1777 /root-$program/tmp; \
    done && \
    mkdir -p -m 700 /owned/data

FROM scratch AS sqlited
COPY --from=build /root-sqlited /
COPY --from=build --chown=65532:65532 /owned /
USER 65532:65532
ENTRYPOINT ["/sqlited"]

FROM scratch AS sqlite-operator
COPY --from=build /root-sqlite-operator /
USER 65532:65532
ENTRYPOINT ["/sqlite-operator"]

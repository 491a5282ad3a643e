# The relay and nothing else: no shell, no package manager, no root.
# How to run it, and what was checked: docs/container.md.

# Any Debian-like image with cargo and a C compiler of the glibc of the second one.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
# Any image with glibc, libgcc_s and CA certificates (/etc/ssl/certs).
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# === Build ====================================================================

FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# The dependencies, from the two files that name them: this layer stays until one of
# them changes. What was built of the empty crate is removed, because cargo goes by
# the times of files and could take it for the real one.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked \
    && cargo clean --release --locked --package tidegate \
    && rm -r src

# The migrations and the runbooks are built into the program.
COPY migrations migrations
COPY docs/runbooks docs/runbooks
COPY src src
RUN cargo build --release --locked

# === Image ====================================================================

FROM ${RUNTIME_IMAGE}

COPY LICENSE /licenses/LICENSE
COPY --from=build /build/target/release/tidegate /tidegate

# Others reach a container at its own address, not at its loopback. (A variable goes
# before the file.) The port has no authentication: publish it to those who scrape.
ENV TIDEGATE__ADMIN__LISTEN=0.0.0.0:9464
EXPOSE 9464

# By number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532

# SIGTERM drains, for at most limits.drain_grace and 15 s more: give `docker stop` and
# the like that time.
STOPSIGNAL SIGTERM

# Liveness. It takes no part in readiness: a database that is away is no illness.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/tidegate", "healthcheck"]

ENTRYPOINT ["/tidegate"]
CMD ["run"]

# Last, for they change with every commit.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="tidegate" \
    org.opencontainers.image.description="Relays PostgreSQL transactional outboxes to Amazon Kinesis Data Streams" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"

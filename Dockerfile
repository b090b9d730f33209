# The services: one image, and the command says which. Without one it is the
# whole shop in one process, on embedded databases in /data:
#
#   docker build --tag gozon .
#   docker run --publish 8080:8080 --volume gozon:/data gozon
#
# The stages `manifests` and `program` are the same in web/Dockerfile, so that
# both images share one build.

# All that the dependencies depend on: the manifests, over empty sources. They
# are copied from here by content, so that the layer after them is reused as
# long as no manifest changes.
FROM rust:1.95-bookworm AS manifests
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN find crates -type f ! -name Cargo.toml ! -path '*/benches/*' -delete \
    && find crates -type f -path '*/benches/*' -exec truncate --size=0 {} + \
    && find crates -mindepth 1 -type d -empty -delete \
    && for crate in crates/*; do mkdir "$crate/src" && touch "$crate/src/lib.rs"; done \
    && mv crates/gozon/src/lib.rs crates/gozon/src/main.rs \
    && echo 'fn main() {}' >crates/gozon/src/main.rs

FROM rust:1.95-bookworm AS program
# zlib is linked in: the final image has no more than the C library.
ENV LIBZ_SYS_STATIC=1 CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
WORKDIR /src
COPY --from=manifests /src .
RUN cargo build --release --locked --package gozon
COPY crates crates
COPY api/proto api/proto
# Cargo goes by time stamps, and those of the sources are older than the build above.
RUN find crates -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package gozon \
    && install -D --target-directory=/out target/release/gozon \
    && mkdir /out/data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=program /out/gozon /usr/bin/gozon
COPY --from=program --chown=65532:65532 /out/data /data
ENV GOZON_LISTEN=0.0.0.0:8080 GOZON_DATA_DIR=/data
# The allocator gives memory back at once, and in small pages: a fifth more processor time for half
# of the memory, where that has a limit.
ENV MIMALLOC_ARENA_EAGER_COMMIT=0 MIMALLOC_ALLOW_THP=0 MIMALLOC_PURGE_DELAY=0
EXPOSE 8080
VOLUME /data
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s --retries=3 \
    CMD ["/usr/bin/gozon", "health", "http://127.0.0.1:8080/readyz"]
ENTRYPOINT ["/usr/bin/gozon"]
CMD ["up"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="gozon" \
    org.opencontainers.image.description="Orders and payments for an online shop" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"

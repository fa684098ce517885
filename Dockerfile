# Both roles in one image: `serve` by default, `get`, `stat`, `ls` as arguments.
# The platform of the base images decides which architecture it is for.

ARG RUST_VERSION=1.95
ARG DEBIAN_CODENAME=bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# Not the slim one: the allocator is built by make.
FROM rust:${RUST_VERSION}-${DEBIAN_CODENAME} AS build
WORKDIR /src

# The dependencies are a layer of their own, keyed by the manifests alone: a
# change of our sources does not build the S3 client again.
COPY Cargo.toml Cargo.lock ./
COPY crates/gantry-proto/Cargo.toml crates/gantry-proto/
COPY crates/gantry-bus/Cargo.toml crates/gantry-bus/
COPY crates/gantry-client/Cargo.toml crates/gantry-client/
COPY crates/gantry-store/Cargo.toml crates/gantry-store/
COPY crates/gantry-relay/Cargo.toml crates/gantry-relay/
COPY crates/gantry-testing/Cargo.toml crates/gantry-testing/
# The allocator must be built for the largest pages that it may meet, as a power
# of two: 64 KiB on arm64, where the kernel decides, and 4 KiB elsewhere.
RUN mkdir .cargo src \
    && if [ "$(uname -m)" = aarch64 ]; then page=16; else page=12; fi \
    && printf '[env]\nJEMALLOC_SYS_WITH_LG_PAGE = "%s"\n' "$page" > .cargo/config.toml \
    && for crate in crates/*; do mkdir "$crate/src" && touch "$crate/src/lib.rs"; done \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin gantry \
    && rm -r src crates/*/src

COPY crates crates
COPY src src
# What gantry_build_info names.
ARG REVISION=unknown
# COPY keeps the files' times, which may lie before the empty crates' build:
# without the touch cargo would take that build for the current one.
RUN find crates src -name '*.rs' -exec touch {} + \
    && GANTRY_REVISION="${REVISION}" cargo build --release --locked --bin gantry

FROM ${RUNTIME_IMAGE}

ARG VERSION=0.2.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="gantry" \
      org.opencontainers.image.description="Relay S3 objects and local files over NATS, in verified, flow-controlled chunks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gantry-relay/gantry" \
      org.opencontainers.image.documentation="https://github.com/gantry-relay/gantry#readme" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --from=build /src/target/release/gantry /usr/local/bin/gantry

# Numeric, so that Kubernetes' runAsNonRoot can tell without reading /etc/passwd.
USER 65532:65532
# Where `get` writes a relative path: mount a folder here that the user may write.
WORKDIR /data
# Outside, only what is published or on the container's network reaches it.
ENV GANTRY_HTTP__LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/gantry", "health"]
ENTRYPOINT ["/usr/local/bin/gantry"]
CMD ["serve"]

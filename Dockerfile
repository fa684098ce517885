# One image for both roles: `serve` by default; `get`, `stat`, `ls` as arguments.
# The platform of the base images determines the architecture.

ARG RUST_VERSION=1.95
ARG DEBIAN_CODENAME=bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# The slim image is not sufficient: building the allocator needs make.
FROM rust:${RUST_VERSION}-${DEBIAN_CODENAME} AS build
WORKDIR /src

# cargo reads them from the environment. The tests lower both, since they measure no speed.
ARG CARGO_PROFILE_RELEASE_LTO=thin
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL=3

# The dependencies have a layer of their own that depends only on the manifests, so a change in Gantry's sources does
# not rebuild the S3 client.
COPY Cargo.toml Cargo.lock ./
COPY crates/gantry-proto/Cargo.toml crates/gantry-proto/
COPY crates/gantry-bus/Cargo.toml crates/gantry-bus/
COPY crates/gantry-client/Cargo.toml crates/gantry-client/
COPY crates/gantry-store/Cargo.toml crates/gantry-store/
COPY crates/gantry-relay/Cargo.toml crates/gantry-relay/
COPY crates/gantry-testing/Cargo.toml crates/gantry-testing/
COPY crates/gantry-upstream/Cargo.toml crates/gantry-upstream/
COPY crates/gantry-verify/Cargo.toml crates/gantry-verify/
COPY crates/gantry-http/Cargo.toml crates/gantry-http/
# The allocator must be built for the largest page size that it may run with, given
# as a power of two: 64 KiB on arm64, where the kernel decides; 4 KiB elsewhere.
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
# The revision shown in gantry_build_info.
ARG REVISION=unknown
# COPY keeps the files' times, which may precede the build of the empty crates.
# Without the touch, cargo would consider that build up to date.
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

# Numeric, so that Kubernetes can check runAsNonRoot without reading /etc/passwd.
USER 65532:65532
# `get` resolves relative paths here: mount a folder that the user may write to.
WORKDIR /data
# Only the container's network and published ports can reach this address.
ENV GANTRY_HTTP__LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/gantry", "health"]
ENTRYPOINT ["/usr/local/bin/gantry"]
CMD ["serve"]

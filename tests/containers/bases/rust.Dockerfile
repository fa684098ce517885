# Replaces the official rust image: gcc, make, libc's headers, the toolchain. The
# crates in Cargo.lock are in cargo's cache, so no registry is needed.
FROM gantry-proof/debian:bookworm
ENV RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CARGO_NET_OFFLINE=true
COPY toolchain /usr/local/rustup/toolchains/host
COPY registry /usr/local/cargo/registry
RUN mkdir -p /usr/local/cargo/bin \
    && ln -s /usr/local/rustup/toolchains/host/bin/cargo /usr/local/rustup/toolchains/host/bin/rustc /usr/local/cargo/bin/ \
    && cargo --version && rustc --version

# Replaces gcr.io/distroless/cc-debian12:nonroot: libc, libgcc, the CA bundle,
# time zones, three users; no shell, no package manager.
FROM gantry-proof/debian:bookworm AS debian
COPY pick-packages.sh /
RUN sh /pick-packages.sh /picked \
      base-files ca-certificates gcc-12-base libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata

FROM scratch
COPY --from=debian /picked /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532
WORKDIR /home/nonroot

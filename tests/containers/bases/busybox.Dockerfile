# Replaces alpine, the base of the nats-server and SeaweedFS images: busybox with all
# its applets and the CA bundle, nothing else.
FROM gantry-proof/debian:bookworm AS debian
RUN mkdir -p /picked/bin /picked/usr/bin /picked/usr/sbin /picked/sbin /picked/usr/local/bin /picked/etc/ssl/certs \
    && cp /bin/busybox /picked/bin/busybox \
    && chroot /picked /bin/busybox --install -s \
    && cp /etc/ssl/certs/ca-certificates.crt /picked/etc/ssl/certs/ \
    && printf 'root:x:0:0:root:/root:/bin/sh\n' > /picked/etc/passwd \
    && printf 'root:x:0:\n' > /picked/etc/group \
    && mkdir -p -m 1777 /picked/tmp

FROM scratch
COPY --from=debian /picked /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["/bin/sh"]

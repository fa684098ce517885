# Replaces chrislusf/seaweedfs: weed with a small userland, data in /data.
FROM gantry-proof/busybox
COPY weed /usr/bin/weed
RUN mkdir -p /data
VOLUME /data
WORKDIR /data
EXPOSE 8333 8888 9333
ENTRYPOINT ["/usr/bin/weed"]

# Stands for chrislusf/seaweedfs: weed on a small userland, data under /data.
FROM gantry-proof/busybox
COPY weed /usr/bin/weed
RUN mkdir -p /data
VOLUME /data
WORKDIR /data
EXPOSE 8333 8888 9333
ENTRYPOINT ["/usr/bin/weed"]

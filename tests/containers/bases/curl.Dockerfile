# Replaces curlimages/curl: curl and a busybox shell, with its own user.
FROM gantry-proof/debian:bookworm
RUN mkdir -p /busybox && /bin/busybox --install -s /busybox \
    && useradd --uid 100 --user-group curl_user
ENV PATH=/busybox:/usr/local/bin:/usr/bin:/bin
RUN rm /busybox/wget && ln -sf /bin/busybox /bin/sh
USER curl_user
ENTRYPOINT ["curl"]

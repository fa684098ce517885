#!/bin/sh
# Creates the bucket and uploads the sample objects. Each upload includes the
# object's SHA-256, which S3 stores and `gantry get` verifies downloads against.
# The script can be run again: existing objects stay unchanged.
set -eu

s3=${S3_ENDPOINT:?the address of the S3 server}
bucket=${S3_BUCKET:-demo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

signed_curl() {
    curl --silent --show-error --fail --retry 10 --retry-connrefused --retry-delay 1 \
        --aws-sigv4 "aws:amz:us-east-1:s3" \
        --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}

exists() {
    signed_curl --head --output /dev/null "$s3/$bucket/$1" 2>/dev/null
}

# put KEY MIB uploads MIB mebibytes of random data.
put() {
    if exists "$1"; then
        echo "seed: $bucket/$1 already exists"
        return
    fi
    head -c "$(($2 * 1048576))" /dev/urandom > "$work/object"
    hex=$(sha256sum "$work/object" | cut -d ' ' -f 1)
    # The S3 header needs the digest's bytes in Base64.
    # shellcheck disable=SC2059
    digest=$(printf "$(printf '%s' "$hex" | sed 's/../\\x&/g')" | base64)
    signed_curl --upload-file "$work/object" --output /dev/null \
        --header "x-amz-content-sha256: UNSIGNED-PAYLOAD" \
        --header "x-amz-checksum-sha256: $digest" \
        "$s3/$bucket/$1"
    echo "seed: put $bucket/$1, $2 MiB, sha256 $hex"
}

signed_curl --head --output /dev/null "$s3/$bucket" 2>/dev/null \
    || signed_curl --request PUT --output /dev/null "$s3/$bucket"
for sample in ${SAMPLES:-hello.bin=1 big.bin=64}; do
    put "${sample%=*}" "${sample#*=}"
done

#!/bin/sh
# cargo's RUSTC_WRAPPER. Adds coverage counters to Gantry's own crates only.
#
# These are the options that cargo-fuzz passes. They work with the stable compiler. All other crates are compiled as for
# the product, so that cargo reuses what `cargo test` has built.
rustc=$1
shift
case ${CARGO_PKG_NAME:-} in
gantry*)
    set -- "$@" -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$rustc" "$@"

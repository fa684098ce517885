#!/bin/sh
# cargo's RUSTC_WRAPPER: adds coverage counters to our own code, and to nothing else.
#
# These are the options that cargo-fuzz passes. They work with the stable compiler. Everything else in the tree is
# compiled as for the product, so that what `cargo test` has built is used again.
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

# shellcheck shell=bash disable=SC2034
# What a cross build needs inside Debian 12, read by cross/chroot.sh and cross/Dockerfile.
# Tools of the building machine.
tools="ca-certificates build-essential pkg-config cmake make libclang-dev clang git python3 python3-pip dpkg-dev \
gcc-aarch64-linux-gnu g++-aarch64-linux-gnu binutils-aarch64-linux-gnu libc6-dev-arm64-cross"
# Libraries of the board: headers, what is linked, and what dpkg-shlibdeps reads the package's dependencies from.
libraries="libc6-dev:arm64 libgstreamer1.0-dev:arm64 libgstreamer-plugins-base1.0-dev:arm64 libgstrtspserver-1.0-dev:arm64"
# Rust 1.92 or later: Debian's own, from its security suite, with the standard library of both machines.
rust="rustc-web cargo-web libstd-rust-web-dev libstd-rust-web-dev:arm64"

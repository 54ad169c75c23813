# One huskv node: the binary on a minimal base, run by an unprivileged user. `docker build -t huskv .`
#
# The stage `node` is everything but the binary. It runs no command, so BASE needs only the libraries of the binary: libc,
# libm and libgcc_s. It comes first, because an engine without BuildKit runs every stage above the requested one:
# `--target node` with a BASE that contains the binary needs no compiler, which is how the image is tested.
ARG BUILDER=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS node
# The folder /data, of user 10001 and group 0, where any user may create a folder of its own (mode 1777). Docker copies its
# owner and mode to a volume that is mounted there for the first time. It comes from an archive, because no instruction
# that every engine supports sets a mode without running a command. The archive is made by:
#   tar --format=ustar --mtime=@0 --owner=10001 --group=0 --numeric-owner --mode=1777 -b1 -cf config/volume.tar data
ADD config/volume.tar /
# The loopback of a container cannot be reached from outside, so the node binds all addresses; HUSKV_ADVERTISE_HOST is then
# required, and either certificates (HUSKV_TLS_DIR) or a word that the network is trusted (HUSKV_NETWORK_INSECURE=true).
ENV HUSKV_HOST=0.0.0.0 RAFT_VOL_DIR=/data/{node_id}
# Any other uid works, too: OpenShift chooses one, in group 0. Nothing is written outside of /data.
USER 10001:0
EXPOSE 2221 1111
# A healthy node takes requests; see `huskv status --help`.
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 CMD ["/usr/local/bin/huskv", "status"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/huskv"]

FROM ${BUILDER} AS build
WORKDIR /build
# The image has a C compiler, which links; nothing else is needed.
COPY Cargo.toml Cargo.lock ./
# The dependencies are a layer of their own, rebuilt only when the two files above change.
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
    && CARGO_PROFILE_DIST_STRIP=debuginfo cargo build --profile dist --locked && rm -r src
COPY src src
# What huskv_build_info shows; `docker build --build-arg HUSKV_COMMIT=$(git rev-parse --short=12 HEAD) .`
ARG HUSKV_COMMIT
# cargo compares file times, and a file of a checkout may be older than the stub built above.
RUN touch src/lib.rs src/main.rs && CARGO_PROFILE_DIST_STRIP=debuginfo cargo build --profile dist --locked

FROM node
COPY --from=build /build/target/dist/huskv /usr/local/bin/huskv

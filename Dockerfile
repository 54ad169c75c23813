# One huskv node: the binary on a plain base, run by a user without rights or a name. `docker build -t huskv .`
#
# The stage `node` is everything but the binary. It runs nothing, so BASE needs no more than what the binary is linked to:
# libc, libm and libgcc_s. It stands first, since an engine without BuildKit runs every stage above the one that it is
# asked for: `--target node` with a BASE that has the binary already needs no compiler, and that is how it is tested.
ARG BUILDER=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS node
# The folder /data, of user 10001 and group 0, where any user may make a folder of its own (mode 1777). Docker gives its
# owner and mode to a volume that is mounted there for the first time. It comes out of an archive, since no instruction
# that every engine knows sets a mode without running a command; this is how the archive is made:
#   tar --format=ustar --mtime=@0 --owner=10001 --group=0 --numeric-owner --mode=1777 -b1 -cf config/volume.tar data
ADD config/volume.tar /
# A container's loopback is nobody else's, so the node binds all of its addresses; HUSKV_ADVERTISE_HOST is then required.
ENV HUSKV_HOST=0.0.0.0 RAFT_VOL_DIR=/data/{node_id}
# Any other uid does too: OpenShift chooses one, in group 0. Nothing is written outside of /data.
USER 10001:0
EXPOSE 2221 1111
# Healthy is a node that takes requests; see `huskv status --help`.
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 CMD ["/usr/local/bin/huskv", "status"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/huskv"]

FROM ${BUILDER} AS build
WORKDIR /build
# The image brings a C compiler, which links; nothing else is needed.
COPY Cargo.toml Cargo.lock ./
# The dependencies are a layer of their own: they are built again only when the two files above change.
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
    && CARGO_PROFILE_DIST_STRIP=debuginfo cargo build --profile dist --locked && rm -r src
COPY src src
# cargo goes by the time of a file, and a file of a checkout may be older than the stub that was built above.
RUN touch src/lib.rs src/main.rs && CARGO_PROFILE_DIST_STRIP=debuginfo cargo build --profile dist --locked

FROM node
COPY --from=build /build/target/dist/huskv /usr/local/bin/huskv

# The gateway and its command line. Needs nothing but the package index; `uv.lock` pins every package.
#   docker build -t scooter-gateway .
# An index or a proxy of your own: --build-arg PIP_INDEX_URL=…, and so on; the image keeps none of it.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# As pip reads them; here only, so that no layer of the image has them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_PROXY
ARG UV_VERSION=0.13.9
ENV PATH=/tools/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /tools && pip install --quiet "uv==${UV_VERSION}" \
    && python -m venv --without-pip /app
# What seldom changes, first: these packages are a layer of their own.
COPY pyproject.toml uv.lock ./
RUN uv export --quiet --frozen --no-dev --no-emit-project --output-file packages.txt \
    && pip --python /app install --quiet --require-hashes --requirement packages.txt \
    && uv export --quiet --frozen --only-group build --output-file build.txt \
    && pip install --quiet --require-hashes --requirement build.txt
COPY README.md LICENSE ./
COPY broker broker
COPY devices devices
COPY gateway gateway
RUN uv build --quiet --wheel --no-build-isolation --offline --python /tools/bin/python \
    && pip --python /app install --quiet --no-deps --no-index dist/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scooter-gateway" \
      org.opencontainers.image.description="An MQTT gateway for shared e-scooters" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The folders are where volumes are mounted first, which take their owner from here.
RUN groupadd --gid 10001 scooter \
    && useradd --uid 10001 --gid 10001 --home-dir /bundles --no-create-home \
        --shell /usr/sbin/nologin scooter \
    && install -d -o scooter -g scooter -m 0700 /bundles /srv/own /srv/passwords /srv/data \
    && install -d -o scooter -g scooter -m 0750 /srv/broker /srv/redis /srv/postgres /srv/gateway
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Where `--out .` puts the bundles of new scooters.
WORKDIR /bundles
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=20s --start-period=60s --retries=3 CMD ["scooter", "health"]
CMD ["scooter", "gateway"]

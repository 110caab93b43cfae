# The agent, from the project's own wheel; `compose/wheels` puts that and what it needs into
# dist/wheels, so no step here needs a network.
#
#   compose/wheels && docker build --target agent -t deregister-agent .
#
# PYTHON_IMAGE is any image with Python 3.11 or later and its venv module, for which the
# wheels were made.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG NGINX_IMAGE=nginx:1.26-bookworm

FROM ${PYTHON_IMAGE} AS installed
COPY dist/wheels /wheels
RUN python3 -m venv /opt/deregister-agent \
 && /opt/deregister-agent/bin/pip install --no-cache-dir --no-index --find-links /wheels deregister-agent \
 && /opt/deregister-agent/bin/pip uninstall -qy setuptools pip

FROM ${PYTHON_IMAGE} AS agent
COPY --from=installed /opt/deregister-agent /opt/deregister-agent
RUN ln -s /opt/deregister-agent/bin/deregister-agent /usr/local/bin/deregister-agent \
 && install -d -m 0700 -o 10001 -g 10001 /run/deregister-agent /var/lib/deregister-agent \
 && install -d /etc/deregister-agent
USER 10001:10001
ENV PYTHONUNBUFFERED=1
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["deregister-agent", "status", "--json"]
ENTRYPOINT ["deregister-agent"]
CMD ["serve"]

# The agent beside Nginx: it tests and reloads the configuration with the same program.
FROM ${NGINX_IMAGE} AS nginx

FROM agent AS gateway-agent
COPY --from=nginx /usr/sbin/nginx /usr/sbin/nginx

# The example's app and its load generator.
FROM ${PYTHON_IMAGE} AS shop-installed
COPY dist/wheels /wheels
COPY compose/requirements.txt /wheels/
RUN python3 -m venv /opt/shop \
 && /opt/shop/bin/pip install --no-cache-dir --no-index --find-links /wheels \
      deregister-agent -r /wheels/requirements.txt \
 && /opt/shop/bin/pip uninstall -qy setuptools pip

FROM ${PYTHON_IMAGE} AS shop
COPY --from=shop-installed /opt/shop /opt/shop
COPY compose/*.py /opt/shop/compose/
COPY compose/shop /opt/shop/compose/shop
COPY compose/traffic /opt/shop/compose/traffic
USER 10001:10001
WORKDIR /opt/shop
ENV PYTHONUNBUFFERED=1 PATH=/opt/shop/bin:/usr/local/bin:/usr/bin:/bin

# The program for a user without a home, who writes in the mounted folder /runs only.
# docs/install.md has the commands.
FROM python:3.12-slim

# Such as --build-arg EXTRAS=[serve,heic].
ARG EXTRAS=""
COPY LICENSE README.md pyproject.toml setup.cfg /src/
COPY keras_ft /src/keras_ft
RUN pip install --no-cache-dir --root-user-action=ignore "/src$EXTRAS" && rm -r /src

# The working folder is /, so `runs/mine` and `configs/binary.cfg` are what they are in a
# clone. Caches and downloaded weights belong to the home, and outlive the container.
WORKDIR /
COPY configs /configs
ENV HOME=/runs
USER 1000:1000
ENTRYPOINT ["keras-ft"]
CMD ["--flagfile=configs/binary.cfg"]

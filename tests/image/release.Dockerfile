# An earlier release as an image: its package in place of the one that the image of this version brings.
ARG IMAGE
FROM ${IMAGE}
COPY . /opt/release
ENV PYTHONPATH=/opt/release/worker
ENTRYPOINT ["python", "-m", "tokentrace"]

# Apache Kafka laid out as in its official image: the scripts, the user, and KAFKA_... as settings, which Kafka's own
# kafka.docker.KafkaDockerWrapper reads in both.
ARG BASE
FROM ${BASE}
COPY libs /opt/kafka/libs
COPY --chmod=755 kafka-run /etc/kafka/docker/run
COPY --chmod=755 kafka-command /opt/kafka/bin/kafka-topics.sh
COPY --chmod=755 kafka-command /opt/kafka/bin/kafka-broker-api-versions.sh
RUN useradd --uid 1000 --create-home appuser && mkdir -p /opt/kafka/config /mnt/shared/config && chown -R appuser /opt/kafka/config
USER appuser
EXPOSE 9092
CMD ["/etc/kafka/docker/run"]

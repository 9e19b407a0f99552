import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Publishes the spans of model calls to Kafka in the background. Safe from several threads. */
public final class Publisher implements AutoCloseable {
    public final AtomicLong delivered = new AtomicLong();
    public final AtomicLong lost = new AtomicLong();

    private final String topic;
    private final KafkaProducer<byte[], byte[]> producer;
    private final Schema schema;
    private final BinaryMessageEncoder<GenericRecord> avro;
    private final ObjectMapper json = new ObjectMapper();

    /** schemaFile: schemas/span.avsc; null writes JSON, for workers with `kafka.framing: json`. */
    public Publisher(String brokers, String topic, File schemaFile) throws IOException {
        this.topic = topic;
        schema = schemaFile == null ? null : new Schema.Parser().parse(schemaFile);
        // Avro's own encoder writes the header: C3 01 and the fingerprint of the schema.
        avro = schema == null ? null : new BinaryMessageEncoder<>(new GenericData(), schema);
        producer = new KafkaProducer<>(
            Map.of(
                "bootstrap.servers", brokers,
                "client.id", "tokentrace-example",
                // The producer is idempotent, and waits for all replicas, by default.
                "linger.ms", 50,
                "compression.type", "lz4",
                // `send` waits so long where its buffer is full; then the span is lost.
                "max.block.ms", 1000),
            new ByteArraySerializer(),
            new ByteArraySerializer());
        connect();
    }

    /** Waits for the topic's partitions, so that the first spans do not: half a minute, and goes on without. */
    private void connect() {
        for (int attempt = 0; attempt < 30; attempt++) {
            try {
                producer.partitionsFor(topic);
                return;
            } catch (TimeoutException error) {
                // The brokers are not there yet.
            }
        }
    }

    /** Never throws: a span that cannot be published is counted in `lost`. */
    public void publish(Map<String, Object> span) {
        try {
            producer.send(new ProducerRecord<>(topic, encode(span)), (metadata, error) ->
                (error == null ? delivered : lost).incrementAndGet());
        } catch (RuntimeException | IOException error) {
            lost.incrementAndGet();
        }
    }

    private byte[] encode(Map<String, Object> span) throws IOException {
        if (schema == null) {
            return json.writeValueAsBytes(span);
        }
        // Fields that are left out take the default of the schema.
        GenericRecordBuilder record = new GenericRecordBuilder(schema);
        span.forEach((name, value) -> record.set(name, name.equals("status")
            ? new GenericData.EnumSymbol(schema.getField(name).schema(), value)
            : value));
        ByteBuffer message = avro.encode(record.build());
        byte[] bytes = new byte[message.remaining()];
        message.get(bytes);
        return bytes;
    }

    /** Delivers what is queued. Call it at the end of the process; a shutdown hook runs on SIGTERM too. */
    @Override
    public void close() {
        producer.close(Duration.ofSeconds(60));
    }
}

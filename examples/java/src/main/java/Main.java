import java.io.File;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Map;
import java.util.UUID;

/** Publishes COUNT spans, and prints how many Kafka has acknowledged. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        boolean json = env("FRAMING", "avro").equals("json");
        File schema = json ? null : new File(env("SCHEMA", "../../schemas/span.avsc"));
        Publisher publisher = new Publisher(env("KAFKA", "127.0.0.1:9092"), env("TOPIC", "llm-spans"), schema);
        int count = Integer.parseInt(env("COUNT", "1"));
        for (int number = 0; number < count; number++) {
            Instant started = Instant.now();
            // ... the call of the model ...
            Instant ended = Instant.now();
            publisher.publish(Map.ofEntries(
                Map.entry("trace_id", UUID.randomUUID().toString().replace("-", "")),
                Map.entry("span_id", UUID.randomUUID().toString().replace("-", "").substring(0, 16)),
                Map.entry("name", "chat"),
                Map.entry("caller", "java"),
                Map.entry("model", "gpt-4o"),
                Map.entry("provider", "openai"),
                Map.entry("prompt_tokens", 1000L + number % 100),
                Map.entry("completion_tokens", 50L),
                Map.entry("cached_prompt_tokens", 512L),
                Map.entry("prompt_tokens_include_cache", true),
                Map.entry("latency_ms", ChronoUnit.MICROS.between(started, ended) / 1000.0),
                Map.entry("status", "ok"),
                Map.entry("started_at", ChronoUnit.MICROS.between(Instant.EPOCH, started)),
                Map.entry("ended_at", ChronoUnit.MICROS.between(Instant.EPOCH, ended))));
        }
        publisher.close();
        System.out.printf("delivered %d, lost %d%n", publisher.delivered.get(), publisher.lost.get());
    }

    private static String env(String name, String fallback) {
        return System.getenv().getOrDefault(name, fallback);
    }
}

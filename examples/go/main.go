// Publishes COUNT spans of model calls to Kafka, and prints how many it has acknowledged.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Header is the first bytes of each message, as `tokentrace schema header` prints them for schemas/span.avsc.
const Header = "c301e9cacc9ef41552d2"

// Span has the fields that this application knows. What it leaves out takes the default of schemas/span.avsc.
type Span struct {
	TraceID                  string   `avro:"trace_id" json:"trace_id"`
	SpanID                   string   `avro:"span_id" json:"span_id"`
	Name                     string   `avro:"name" json:"name"`
	Caller                   string   `avro:"caller" json:"caller"`
	Model                    string   `avro:"model" json:"model"`
	Provider                 string   `avro:"provider" json:"provider"`
	PromptTokens             *int64   `avro:"prompt_tokens" json:"prompt_tokens"`
	CompletionTokens         *int64   `avro:"completion_tokens" json:"completion_tokens"`
	CachedPromptTokens       *int64   `avro:"cached_prompt_tokens" json:"cached_prompt_tokens"`
	PromptTokensIncludeCache *bool    `avro:"prompt_tokens_include_cache" json:"prompt_tokens_include_cache"`
	LatencyMs                *float64 `avro:"latency_ms" json:"latency_ms"`
	Status                   string   `avro:"status" json:"status"`
	StartedAt                int64    `avro:"started_at" json:"started_at"`
	EndedAt                  int64    `avro:"ended_at" json:"ended_at"`
}

// Publisher publishes spans in the background. Its methods may be called from any goroutine.
type Publisher struct {
	Delivered, Lost atomic.Int64

	client *kgo.Client
	schema avro.Schema
	header []byte
}

// NewPublisher makes a publisher. With an empty schemaPath, it writes JSON, for workers with `kafka.framing: json`.
func NewPublisher(brokers []string, topic, schemaPath string) (*Publisher, error) {
	publisher := &Publisher{}
	if schemaPath != "" {
		text, err := os.ReadFile(schemaPath)
		if err != nil {
			return nil, err
		}
		// The schema's timestamps are longs here.
		plain := strings.ReplaceAll(string(text), `"logicalType": "timestamp-micros"`, `"unit": "us"`)
		if publisher.schema, err = avro.Parse(plain); err != nil {
			return nil, err
		}
		if publisher.header, err = hex.DecodeString(Header); err != nil {
			return nil, err
		}
	}
	// franz-go's producer is idempotent, and waits for all replicas, by default.
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerLinger(50*time.Millisecond),
		kgo.MaxBufferedRecords(100_000),
	)
	publisher.client = client
	return publisher, err
}

// Publish never fails and never waits: a span that cannot be published is counted in Lost.
func (p *Publisher) Publish(span *Span) {
	var value []byte
	var err error
	if p.schema == nil {
		value, err = json.Marshal(span)
	} else if value, err = avro.Marshal(p.schema, span); err == nil {
		value = append(append(make([]byte, 0, len(p.header)+len(value)), p.header...), value...)
	}
	if err != nil {
		p.Lost.Add(1)
		return
	}
	p.client.TryProduce(context.Background(), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
		if err != nil {
			p.Lost.Add(1)
		} else {
			p.Delivered.Add(1)
		}
	})
}

// Close delivers what is queued. Call it at the end of the process, also on SIGTERM.
func (p *Publisher) Close(ctx context.Context) error {
	err := p.client.Flush(ctx)
	p.client.Close()
	return err
}

func main() {
	schema := env("SCHEMA", "../../schemas/span.avsc")
	if env("FRAMING", "avro") == "json" {
		schema = ""
	}
	publisher, err := NewPublisher(strings.Split(env("KAFKA", "127.0.0.1:9092"), ","), env("TOPIC", "llm-spans"), schema)
	if err != nil {
		log.Fatal(err)
	}
	count, err := strconv.Atoi(env("COUNT", "1"))
	if err != nil {
		log.Fatal(err)
	}
	for number := range count {
		started := time.Now()
		// ... the call of the model ...
		ended := time.Now()
		prompt, completion, cached, includes := int64(1000+number%100), int64(50), int64(512), true
		latency := float64(ended.Sub(started).Microseconds()) / 1000
		publisher.Publish(&Span{
			TraceID: randomHex(16), SpanID: randomHex(8), Name: "chat", Caller: "go", Model: "gpt-4o", Provider: "openai",
			PromptTokens: &prompt, CompletionTokens: &completion, CachedPromptTokens: &cached,
			PromptTokensIncludeCache: &includes, LatencyMs: &latency, Status: "ok",
			StartedAt: started.UnixMicro(), EndedAt: ended.UnixMicro(),
		})
		if number%1000 == 999 {
			// An application's calls take longer than this.
			time.Sleep(5 * time.Millisecond)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := publisher.Close(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("delivered %d, lost %d\n", publisher.Delivered.Load(), publisher.Lost.Load())
}

func randomHex(size int) string {
	bytes := make([]byte, size)
	_, _ = rand.Read(bytes)
	return hex.EncodeToString(bytes)
}

func env(name, fallback string) string {
	if value, found := os.LookupEnv(name); found {
		return value
	}
	return fallback
}

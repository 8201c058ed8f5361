// Adds events with the Go library pulse, and reads them as a member of a sink, for the tests of Streams.
//
//	pulse add ADDRESS STREAM NAME TOPIC PAYLOAD...
//	pulse sink ADDRESS STREAM SINK GRACE ack|hold
//
// A sink prints what it gets, one event a line: its name, topic and payload, with tabs between. It
// acknowledges it before, or holds it, until its standard input ends.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"goa.design/pulse/streaming"
	"goa.design/pulse/streaming/options"
)

func main() {
	if len(os.Args) < 6 {
		log.Fatal("pulse add|sink ADDRESS STREAM ...; see main.go")
	}
	command, address, name, rest := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	stream, err := streaming.NewStream(name, client)
	if err != nil {
		log.Fatal(err)
	}
	if command == "add" {
		err = add(ctx, stream, rest[0], rest[1], rest[2:])
	} else {
		err = sink(ctx, stream, rest[0], rest[1], rest[2] == "ack")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func add(ctx context.Context, stream *streaming.Stream, name, topic string, payloads []string) error {
	for _, payload := range payloads {
		if _, err := stream.Add(ctx, name, []byte(payload), options.WithTopic(topic)); err != nil {
			return err
		}
	}
	return nil
}

func sink(ctx context.Context, stream *streaming.Stream, name, grace string, ack bool) error {
	period, err := time.ParseDuration(grace)
	if err != nil {
		return err
	}
	sink, err := stream.NewSink(ctx, name,
		options.WithSinkStartAtOldest(),
		options.WithSinkBlockDuration(100*time.Millisecond),
		options.WithSinkMaxPolled(1),
		options.WithSinkAckGracePeriod(period))
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	events := sink.Subscribe()
	fmt.Println("ready")
	for {
		select {
		case event := <-events:
			if ack {
				if err := sink.Ack(ctx, event); err != nil {
					return err
				}
			}
			fmt.Printf("%s\t%s\t%s\n", event.EventName, event.Topic, event.Payload)
		case <-ended:
			sink.Close(ctx)
			return nil
		}
	}
}

// A worker that keeps itself registered with Luna over gRPC, from its start until SIGTERM or Ctrl-C.
// What it says of its health is the last line of its standard input: OK or DOWN.
package main

import (
	"bufio"
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/luna-examples/connect"
	registryv1 "example.com/luna-examples/luna/registry/v1"
)

type worker struct {
	id, owner  string // with the owner this process gets its own registration back, and no one else's
	health     registryv1.Status
	said       chan registryv1.Status // what health is to become
	generation uint64                 // of the registration that we hold; 0: none
	epoch      string
	interval   time.Duration
	attempts   int // since the last answer
}

// session works over one connection until there is a reason to register again, to open another stream, or to stop.
func (w *worker) session(ctx context.Context) error {
	registry, conn, err := connect.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	if w.generation == 0 {
		if err := w.register(registry); err != nil {
			return err
		}
	}
	return w.beat(ctx, registry)
}

func (w *worker) register(registry registryv1.RegistryClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := registry.Register(ctx, &registryv1.RegisterRequest{
		Instance: &registryv1.Instance{InstanceId: w.id, Version: "1.0.0", Status: w.health},
		// At our start, whoever has the id is most likely our own earlier run, and is replaced. Later on it is our successor.
		Replace: w.epoch == "",
		Owner:   w.owner,
	})
	if err != nil {
		return err
	}
	w.generation = answer.Instance.Generation
	w.learn(answer.Lease)
	fmt.Println("registered", w.id)
	return nil
}

func (w *worker) learn(lease *registryv1.Lease) {
	w.interval, w.epoch, w.attempts = lease.HeartbeatInterval.AsDuration(), lease.Epoch, 0
}

// beat sends heartbeats on one stream, and reads what the registry says to them.
func (w *worker) beat(ctx context.Context, registry registryv1.RegistryClient) error {
	streaming, cancel := context.WithCancel(context.Background()) // not ctx, which ends before the registry's last word
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	silence := time.AfterFunc(w.interval, cancel)
	defer silence.Stop()
	stream, err := registry.StreamHeartbeats(streaming)
	if err != nil {
		return err
	}
	generation, interval := w.generation, w.interval
	sending.Go(func() { w.send(ctx, stream, generation, interval) })
	for {
		answer, err := stream.Recv()
		if streaming.Err() != nil {
			return errors.New("the registry is silent")
		}
		if err != nil {
			return err
		}
		if over, err := w.understand(answer); over || err != nil {
			return err
		}
		silence.Reset(2 * w.interval) // one until the next heartbeat, and one for its answer
	}
}

// send sends until it is told to stop, or the stream ends. Why sending fails, receiving tells.
func (w *worker) send(ctx context.Context, stream registryv1.Registry_StreamHeartbeatsClient, generation uint64, interval time.Duration) {
	tell := func() { // it names our generation, so that the stream renews no other
		heartbeat := &registryv1.HeartbeatRequest{InstanceId: w.id, Generation: generation, Status: &w.health}
		_ = stream.Send(&registryv1.StreamHeartbeatsRequest{Heartbeats: []*registryv1.HeartbeatRequest{heartbeat}})
	}
	tell()
	next := time.NewTicker(interval)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			_ = stream.Send(&registryv1.StreamHeartbeatsRequest{InstanceIds: []string{w.id}})
		case w.health = <-w.said:
			tell()
		case <-ctx.Done():
			_ = stream.CloseSend() // the registry says its last word, and ends the stream
			return
		case <-stream.Context().Done():
			return
		}
	}
}

// understand tells whether the stream has served its time.
func (w *worker) understand(answer *registryv1.StreamHeartbeatsResponse) (over bool, err error) {
	forgotten := answer.Lease.Epoch != w.epoch // the registry was started anew
	for _, failure := range answer.Failures {
		err := status.Error(codes.Code(failure.Code), failure.Message)
		if connect.Refusal(err) != nil {
			return true, err
		}
		forgotten = forgotten || status.Code(err) == codes.NotFound
	}
	if forgotten {
		w.generation = 0
	}
	w.learn(answer.Lease)
	return forgotten || answer.Reconnect, nil
}

func (w *worker) deregister() {
	registry, conn, err := connect.Open()
	if err == nil {
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err = registry.Deregister(ctx, &registryv1.DeregisterRequest{InstanceId: w.id, Generation: w.generation})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "not deregistered, the lease will run out: %s\n", status.Convert(err).Message())
		return
	}
	fmt.Println("deregistered", w.id)
}

// listen reads from standard input what to say of our health.
func (w *worker) listen() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if health := registryv1.Status_value["STATUS_"+lines.Text()]; health != 0 {
			w.said <- registryv1.Status(health)
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	w := &worker{
		id:       cmp.Or(os.Getenv("INSTANCE_ID"), "orders-go:localhost:8080"),
		owner:    cryptorand.Text(),
		health:   registryv1.Status_STATUS_OK,
		said:     make(chan registryv1.Status),
		interval: 10 * time.Second, // until the registry names another
	}
	go w.listen()
	if err := connect.Retry(ctx, &w.attempts, &w.interval, func() error { return w.session(ctx) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if w.generation != 0 {
		w.deregister()
	}
}

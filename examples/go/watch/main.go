// Prints the changes of a service, until SIGTERM or Ctrl-C.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/luna-examples/connect"
	registryv1 "example.com/luna-examples/luna/registry/v1"
)

type watcher struct {
	name     string
	token    string            // where to go on
	known    map[string]string // what each instance was printed with
	unseen   map[string]bool   // what a snapshot has not named yet; nil when there is none under way
	attempts int               // since the last message
}

// watch goes on from the last token, until the stream ends.
func (w *watcher) watch(ctx context.Context) error {
	registry, conn, err := connect.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := registry.WatchServices(ctx, &registryv1.WatchServicesRequest{Names: []string{w.name}, ResumeToken: w.token})
	if err != nil {
		return err
	}
	w.unseen = nil
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		w.attempts = 0
		w.apply(message)
	}
}

func (w *watcher) apply(message *registryv1.WatchServicesResponse) {
	if message.Reset_ {
		w.unseen = map[string]bool{}
		for id := range w.known {
			w.unseen[id] = true
		}
	}
	for _, event := range message.Events {
		if id := event.Instance.InstanceId; event.Type == registryv1.EventType_EVENT_TYPE_REMOVED {
			w.forget(id)
		} else {
			w.show(event.Instance)
		}
	}
	if message.Synced {
		for id := range w.unseen { // it left while nobody told us
			w.forget(id)
		}
		how := "from where it was"
		if w.unseen != nil {
			how = "from the beginning"
		}
		fmt.Fprintf(os.Stderr, "in step, %s\n", how)
		w.unseen = nil
	}
	if message.ResumeToken != "" {
		w.token = message.ResumeToken
	}
}

func (w *watcher) show(instance *registryv1.Instance) {
	delete(w.unseen, instance.InstanceId)
	shown := fmt.Sprintf("%s %s", instance.Status.String()[len("STATUS_"):], instance.Url)
	if w.known[instance.InstanceId] != shown {
		w.known[instance.InstanceId] = shown
		fmt.Println(instance.InstanceId, shown)
	}
}

func (w *watcher) forget(id string) {
	delete(w.unseen, id)
	if _, known := w.known[id]; known {
		delete(w.known, id)
		fmt.Println(id, "gone")
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: watch SERVICE")
		os.Exit(2)
	}
	w := &watcher{name: os.Args[1], known: map[string]string{}}
	longest := 10 * time.Second
	if err := connect.Retry(ctx, &w.attempts, &longest, func() error { return w.watch(ctx) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Package connect knows how to reach a registry, and which of its errors are final.
package connect

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	registryv1 "example.com/luna-examples/luna/registry/v1"
)

var refusals = map[codes.Code]string{
	codes.Unauthenticated:    "wrong credentials: check LUNA_AUTH_USERNAME and LUNA_AUTH_PASSWORD",
	codes.PermissionDenied:   "not allowed",
	codes.InvalidArgument:    "not accepted",
	codes.AlreadyExists:      "another registration has taken over",
	codes.FailedPrecondition: "another registration has taken over",
}

// Refusal returns what to tell people about an error that the next try would meet again, and nil for any other error.
func Refusal(err error) error {
	if text, final := refusals[status.Code(err)]; final {
		return fmt.Errorf("%s (%s)", text, status.Convert(err).Message())
	}
	return nil
}

// Retry runs a task again and again until ctx ends, or the registry refuses it. A registry that is away is waited for.
// The task keeps attempts at 0 for as long as the registry answers.
func Retry(ctx context.Context, attempts *int, longest *time.Duration, task func() error) error {
	for ctx.Err() == nil {
		err := task()
		if refusal := Refusal(err); refusal != nil {
			return refusal
		}
		if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "%s; trying again\n", status.Convert(err).Message())
		}
		// Full jitter, or else all clients of a registry would come back to it at the same moment.
		select {
		case <-time.After(rand.N(min(*longest, 500*time.Millisecond<<min(*attempts, 10)))):
		case <-ctx.Done():
		}
		*attempts++
	}
	return nil
}

// Open opens a connection of its own: one that is shared with other parts of a program may be the one that has gone silent.
func Open() (registryv1.RegistryClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient(cmp.Or(os.Getenv("LUNA_ADDRESS"), "127.0.0.1:50051"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(basic{}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return nil, nil, err
	}
	return registryv1.NewRegistryClient(conn), conn, nil
}

// basic sends user and password with every call.
type basic struct{}

func (basic) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	user := cmp.Or(os.Getenv("LUNA_AUTH_USERNAME"), "admin") + ":" + os.Getenv("LUNA_AUTH_PASSWORD")
	return map[string]string{"authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(user))}, nil
}

// With TLS this is true.
func (basic) RequireTransportSecurity() bool { return false }

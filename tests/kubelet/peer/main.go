// Command peer is the other side of a kubelet in the kubelet suite: a client of
// its streams, by the library that kubectl uses, and a program to probe.
//
//	peer exec spdy|websocket URL              standard streams, the program's exit code
//	peer forward spdy|websocket URL PORT      says "Forwarding from 127.0.0.1:N" until its input ends
//	peer health PORT                          serves gRPC health until /tmp/sick exists, then fails
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	err := errors.New("expected exec, forward or health")
	switch {
	case len(os.Args) == 4 && os.Args[1] == "exec":
		err = run(os.Args[2], os.Args[3])
	case len(os.Args) == 5 && os.Args[1] == "forward":
		err = forward(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 3 && os.Args[1] == "health":
		err = serveHealth(os.Args[2])
	}
	var status exec.CodeExitError
	if errors.As(err, &status) {
		os.Exit(status.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(125)
	}
}

// config trusts whoever answers: the kubelet signs its own certificate, and
// listens on the loopback device of a test's own network namespace.
func config() *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func run(transport, address string) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	var executor remotecommand.Executor
	if transport == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutor(config(), "GET", address)
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config(), "POST", target)
	}
	if err != nil {
		return err
	}
	query := target.Query()
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr, Tty: query.Get("tty") == "1"}
	if query.Get("input") == "1" {
		options.Stdin = os.Stdin
	}
	if options.Tty {
		options.Stderr = nil
	}
	return executor.StreamWithContext(context.Background(), options)
}

func forward(transport, address, port string) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	var dialer httpstream.Dialer
	if transport == "websocket" {
		dialer, err = portforward.NewSPDYOverWebsocketDialer(target, config())
	} else {
		var roundTripper http.RoundTripper
		var upgrader spdy.Upgrader
		roundTripper, upgrader, err = spdy.RoundTripperFor(config())
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, "POST", target)
	}
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	forwarder, err := portforward.New(dialer, []string{"0:" + port}, stop, make(chan struct{}), os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}

type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if _, err := os.Stat("/tmp/sick"); err == nil {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return &grpc_health_v1.HealthCheckResponse{Status: status}, nil
}

func serveHealth(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health{})
	return server.Serve(listener)
}

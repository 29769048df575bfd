//go:build tools

// Package kubelet names the program that the kubelet suite runs, so that go.mod
// and go.sum hold its dependencies. Nothing of it is in this tree: the sources
// stay in Go's module cache.
package kubelet

import _ "k8s.io/kubernetes/cmd/kubelet"

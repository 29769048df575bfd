//go:build tools

// Package kubelet names the programs that suites run, so that go.mod and go.sum
// hold their dependencies. Nothing of them is in this tree: the sources stay in
// Go's module cache.
package kubelet

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)

//go:build tools

// Package cni names the plugins that `tests/tests/cri/cni.rs` builds, so that
// go.mod and go.sum hold their dependencies. Nothing of them is in this tree:
// the sources stay in Go's module cache.
package cni

import (
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/bridge"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/meta/bandwidth"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
)

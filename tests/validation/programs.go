//go:build tools

// Package validation names what `tests/tests/callers/validation.rs` builds, so
// that go.mod and go.sum hold its dependencies. Nothing of it is in this tree:
// the sources stay in Go's module cache.
package validation

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)

//go:build tools

// Package crio names CRI-O as a dependency, so that `./x bench cri` builds it by its module.
package crio

import _ "github.com/cri-o/cri-o/cmd/crio"

//! Tests of preemption.

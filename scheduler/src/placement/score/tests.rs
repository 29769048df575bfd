//! Tests of the scores.

//! Tests of the filters: tables, and a slow plain model.

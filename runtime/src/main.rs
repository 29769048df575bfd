//! berth-oci
fn main() {}

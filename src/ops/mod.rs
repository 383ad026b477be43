//! One folder per operation: shapes and formula in `mod.rs`, the CPU side in `cpu.rs`.

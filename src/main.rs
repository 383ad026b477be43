//! The `flipk` program: see [`flipk`] for the library behind it.

fn main() {}

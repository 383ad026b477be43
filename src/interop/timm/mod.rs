//! Plain ViTs of timm (1.0) as vision towers of OpenCLIP models: their names and arguments, and the names of tensors.

mod config;
mod names;

pub(super) use config::tower;
pub(super) use names::{POSITIONS, piece};

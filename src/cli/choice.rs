//! What a user may write for the device.

use std::str::FromStr;

use clap::ValueEnum;

/// A device.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum Kind {
    #[default]
    Auto,
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
    #[cfg(feature = "emulator")]
    Emulator,
}

/// A number of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gpus {
    /// All GPUs of this machine.
    All,
    /// This many.
    Number(usize),
}

impl FromStr for Gpus {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(number @ 1..)) => Ok(Self::Number(number)),
            _ => Err("it must be a number of GPUs, at least 1, or `all`"),
        }
    }
}

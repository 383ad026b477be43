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

#[cfg(test)]
mod tests {
    use super::Gpus;

    #[test]
    fn gpus_are_a_number_or_all() {
        assert_eq!(["1", "8", "all"].map(str::parse), [Ok(Gpus::Number(1)), Ok(Gpus::Number(8)), Ok(Gpus::All)]);
        for wrong in ["0", "-1", "", "ALL", "two"] {
            assert!(wrong.parse::<Gpus>().is_err(), "{wrong}");
        }
    }
}

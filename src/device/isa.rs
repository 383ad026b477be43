//! The vector instruction set that the CPU ops use. Results have the same bits with each of them; the environment
//! variable `FLIPK_CPU` selects one, to check that or to measure.

use std::fmt;
use std::sync::OnceLock;

/// The instruction sets that code is compiled for, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The architecture's baseline: SSE2 or NEON.
    Portable,
    /// AVX2 with fused multiply-adds.
    Avx2,
    /// AVX-512 with bytes, words and shorter vectors (F, BW, DQ, VL).
    Avx512,
}

impl Isa {
    /// All instruction sets, narrowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Its name in `FLIPK_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor has it.
    pub fn is_there(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        #[cfg(target_arch = "x86_64")]
        let there = match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        let there = self == Self::Portable;
        there
    }

    /// The widest that this processor has.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_there()).unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The environment variable that selects an instruction set.
pub const VARIABLE: &str = "FLIPK_CPU";

/// The instruction set that `word`, the value of [`VARIABLE`], names. Without a value, the widest.
fn asked(word: Option<&str>) -> Result<Isa, String> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(Isa::best()) };
    let named = Isa::ALL.into_iter().find(|isa| isa.name() == word);
    let isa = named.ok_or_else(|| format!("{VARIABLE}={word}: it must be avx512, avx2 or portable"))?;
    match isa.is_there() {
        true => Ok(isa),
        false => Err(format!("{VARIABLE}={word}: this processor has at most {}", Isa::best())),
    }
}

/// The instruction set that this process uses. [`VARIABLE`] is read once.
///
/// # Errors
/// An unknown word, or an instruction set that this processor lacks.
pub fn chosen() -> Result<Isa, &'static str> {
    static CHOSEN: OnceLock<Result<Isa, String>> = OnceLock::new();
    let word = || std::env::var_os(VARIABLE).map(|word| word.to_string_lossy().into_owned());
    CHOSEN.get_or_init(|| asked(word().as_deref())).as_ref().map(|isa| *isa).map_err(String::as_str)
}

/// As [`chosen`]; the widest if [`VARIABLE`] is wrong, which the program reports at startup.
#[inline]
pub(crate) fn level() -> Isa {
    chosen().unwrap_or_else(|_| Isa::best())
}

/// The processor's name as the system gives it, with the numbers of its family and model: `Intel(R) Xeon(R) Processor,
/// cpu family 6, model 207`. On other systems than Linux, the architecture.
pub fn processor() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        named(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
    })
}

/// The name in the text of `/proc/cpuinfo`, from the first processor's lines.
fn named(text: &str) -> Option<String> {
    const NUMBERS: [&str; 4] = ["cpu family", "model", "CPU implementer", "CPU part"];
    let lines: Vec<(&str, &str)> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let name = lines.iter().find(|(key, _)| *key == "model name").map(|(_, name)| (*name).to_owned());
    let numbers = lines.iter().filter(|(key, _)| NUMBERS.contains(key)).map(|(key, value)| format!("{key} {value}"));
    let parts: Vec<String> = name.into_iter().chain(numbers).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_names() {
        let intel =
            "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Xeon\n\nprocessor\t: 1\nmodel name\t: x\n";
        assert_eq!(named(intel).unwrap(), "Xeon, cpu family 6, model 207");
        let arm = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        assert_eq!(named(arm).unwrap(), "CPU implementer 0x41, CPU part 0xd40");
        assert_eq!(named(""), None);
        assert!(!processor().is_empty());
    }

    #[test]
    fn words_are_instruction_sets_that_are_there() {
        assert_eq!(asked(Some("portable")), Ok(Isa::Portable));
        assert_eq!(asked(None), Ok(Isa::best()));
        assert_eq!(asked(Some("")), Ok(Isa::best()));
        assert!(Isa::best().is_there());
        for isa in Isa::ALL {
            assert_eq!(asked(Some(isa.name())).is_ok(), isa.is_there(), "{isa}");
        }
        assert!(asked(Some("sse9")).unwrap_err().contains("FLIPK_CPU=sse9: it must be avx512, avx2 or portable"));
    }
}

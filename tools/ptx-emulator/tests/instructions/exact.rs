//! Exact sums of floating-point numbers, and their rounding to any format in any mode: the reference for arithmetic.

/// A fixed-point number in two's complement: its lowest bit is 2^-1100, below every f64, and its top is far above them.
#[derive(Clone)]
pub struct Exact([u64; 36]);

const LOWEST: i32 = -1100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Nearest,
    Zero,
    Down,
    Up,
    Away,
}

/// The modes that arithmetic has, with their names in PTX.
pub const MODES: [(&str, Mode); 4] = [("rn", Mode::Nearest), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

/// A floating-point format: bits of its exponent and of its mantissa without the leading one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub exponent: u32,
    pub mantissa: u32,
}

pub const F16: Format = Format { exponent: 5, mantissa: 10 };
pub const BF16: Format = Format { exponent: 8, mantissa: 7 };
pub const TF32: Format = Format { exponent: 8, mantissa: 10 };
pub const F32: Format = Format { exponent: 8, mantissa: 23 };
pub const F64: Format = Format { exponent: 11, mantissa: 52 };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    pub fn sign(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }

    /// The NaN that PTX returns: all ones but the sign, of the 16- and 32-bit formats.
    pub fn nan(self) -> u64 {
        if self == TF32 { F32.sign() - 1 } else { self.sign() - 1 }
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign() - 1) > self.infinity()
    }

    /// The value of an encoding: exact, as f64 holds all of these formats.
    pub fn value(self, bits: u64) -> f64 {
        let (exponent, mantissa) =
            ((bits >> self.mantissa) & ((1 << self.exponent) - 1), bits & ((1 << self.mantissa) - 1));
        let magnitude = if exponent == (1 << self.exponent) - 1 {
            if mantissa == 0 { f64::INFINITY } else { f64::NAN }
        } else if self == F64 {
            f64::from_bits(bits & (self.sign() - 1))
        } else {
            // The exponent of subnormals is that of the smallest normal numbers.
            let whole = mantissa | u64::from(exponent > 0) << self.mantissa;
            whole as f64 * 2f64.powi(exponent.max(1) as i32 - self.bias() - self.mantissa as i32)
        };
        if bits & self.sign() != 0 { -magnitude } else { magnitude }
    }

    /// A subnormal becomes a zero of its sign.
    pub fn flush(self, bits: u64) -> u64 {
        if bits & self.infinity() == 0 { bits & self.sign() } else { bits }
    }
}

impl Exact {
    /// `whole * 2^exponent`
    pub fn new(whole: i128, exponent: i32) -> Exact {
        let (at, shift) = ((exponent - LOWEST) as usize / 64, (exponent - LOWEST) as usize % 64);
        let magnitude = whole.unsigned_abs();
        let mut words = [0; 36];
        words[at] = (magnitude as u64) << shift;
        words[at + 1] = (magnitude << shift >> 64) as u64;
        words[at + 2] = if shift == 0 { 0 } else { (magnitude >> (128 - shift)) as u64 };
        let made = Exact(words);
        if whole < 0 { made.negated() } else { made }
    }

    /// A finite number.
    pub fn from(x: f64) -> Exact {
        let (bits, exponent) = (x.to_bits() & (F64.sign() - 1), (x.to_bits() >> 52 & 0x7ff) as i32);
        let whole = (bits & ((1 << 52) - 1) | u64::from(exponent > 0) << 52) as i128;
        Exact::new(if x < 0.0 { -whole } else { whole }, exponent.max(1) - 1075)
    }

    fn negated(&self) -> Exact {
        let mut carry = true;
        Exact(self.0.map(|word| {
            let (word, over) = (!word).overflowing_add(u64::from(carry));
            carry = over;
            word
        }))
    }

    pub fn plus(&self, other: &Exact) -> Exact {
        let mut carry = 0;
        Exact(std::array::from_fn(|i| {
            let sum = u128::from(self.0[i]) + u128::from(other.0[i]) + carry;
            carry = sum >> 64;
            sum as u64
        }))
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Bits `at..at + 64` of a positive number.
    fn window(&self, at: usize) -> u64 {
        let word = |i: usize| u128::from(self.0.get(i).copied().unwrap_or(0));
        ((word(at / 64) | word(at / 64 + 1) << 64) >> (at % 64)) as u64
    }

    /// The encoding of the nearest number by `mode`; zero is +0.
    pub fn round(&self, format: Format, mode: Mode) -> u64 {
        let negative = self.0[35] >> 63 == 1;
        let magnitude = if negative { self.negated() } else { self.clone() };
        let Some(top) = magnitude.0.iter().rposition(|word| *word != 0) else { return 0 };
        let highest = (64 * top + 63) as i32 - magnitude.0[top].leading_zeros() as i32 + LOWEST;
        let smallest = 1 - format.bias() - format.mantissa as i32;
        // The exponent of the result's last bit, and where that bit is here.
        let last = (highest - format.mantissa as i32).max(smallest);
        let at = (last - LOWEST) as usize;
        let whole = if last > highest { 0 } else { magnitude.window(at) };
        let half = magnitude.window(at - 1) & 1 == 1;
        let rest = (0..at - 1).step_by(64).any(|i| {
            let kept = (at - 1 - i).min(64);
            magnitude.window(i) << (64 - kept) != 0
        });
        let up = match mode {
            Mode::Nearest => half && (rest || whole & 1 == 1),
            Mode::Away => half,
            Mode::Zero => false,
            Mode::Down => negative && (half || rest),
            Mode::Up => !negative && (half || rest),
        };
        // A carry out of the mantissa lands in the exponent, as it should.
        let bits = (((last - smallest) as u64) << format.mantissa) + whole + u64::from(up);
        let sign = if negative { format.sign() } else { 0 };
        let outwards = match mode {
            Mode::Nearest | Mode::Away => true,
            Mode::Zero => false,
            Mode::Down => negative,
            Mode::Up => !negative,
        };
        let most = if outwards { format.infinity() } else { format.infinity() - 1 };
        sign | if bits >= format.infinity() { most } else { bits }
    }
}

#[test]
fn the_reference_rounds_as_the_processor_does() {
    for i in 0..20_000u64 {
        let x = f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if x.is_finite() && x != 0.0 {
            assert_eq!(Exact::from(x).round(F64, Mode::Nearest), x.to_bits(), "{x:e}");
        }
        let (a, b) = (
            f32::from_bits((i as u32).wrapping_mul(2_654_435_761)),
            f32::from_bits((i as u32 + 9).wrapping_mul(2_246_822_519)),
        );
        if a.is_finite() && b.is_finite() {
            let sum = Exact::from(a.into()).plus(&Exact::from(b.into()));
            assert_eq!(sum.round(F32, Mode::Nearest), u64::from((a + b).to_bits()), "{a:e} + {b:e}");
            assert_eq!(F32.value(a.to_bits().into()), f64::from(a));
        }
    }
}

//! An opcode with its modifiers, taken off one by one; what is left over at the end is an error.

use crate::isa::{Round, Ty};

pub struct Form<'a> {
    pub name: &'a str,
    modifiers: Vec<&'a str>,
}

impl<'a> Form<'a> {
    pub fn new(opcode: &'a str) -> Form<'a> {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        Form { name, modifiers: parts.collect() }
    }

    /// Removes `modifier` if it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        self.pick(|m| (m == modifier).then_some(())).is_some()
    }

    /// Removes the first modifier that `f` knows.
    pub fn pick<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.modifiers.iter().enumerate().find_map(|(i, m)| Some((i, f(m)?)))?;
        self.modifiers.remove(at);
        Some(value)
    }

    /// Removes every modifier for which `f` holds.
    pub fn drop(&mut self, f: impl Fn(&str) -> bool) {
        self.modifiers.retain(|m| !f(m));
    }

    /// Removes the last modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Ty, String> {
        let last = self.modifiers.pop().ok_or("the instruction has no type")?;
        Ty::parse(last).ok_or_else(|| format!("the type `.{last}` is not supported"))
    }

    /// `.rn`, `.rz`, `.rm`, `.rp`; nearest if there is none.
    pub fn round(&mut self) -> Round {
        let round = self.pick(|m| match m {
            "rn" => Some(Round::Nearest),
            "rz" => Some(Round::Zero),
            "rm" => Some(Round::Down),
            "rp" => Some(Round::Up),
            _ => None,
        });
        round.unwrap_or(Round::Nearest)
    }

    /// Nothing may be left.
    pub fn finish(&self) -> Result<(), String> {
        match self.modifiers.first() {
            Some(left) => Err(format!("`{}` with `.{left}` is not supported", self.name)),
            None => Ok(()),
        }
    }
}

//! An opcode and its modifiers, which the decoder consumes one by one.

use crate::forms;
use crate::isa::{Round, Ty};

pub(super) struct Form<'a> {
    pub(super) name: &'a str,
    modifiers: Vec<&'a str>,
}

impl<'a> Form<'a> {
    /// Looks the opcode up in the table of forms; drops modifiers that have no effect.
    pub(super) fn new(opcode: &'a str) -> Result<Form<'a>, String> {
        let (name, modifiers) = forms::find(opcode)?;
        Ok(Form { name, modifiers })
    }

    /// Removes `modifier` if it is there.
    pub(super) fn take(&mut self, modifier: &str) -> bool {
        self.pick(|m| (m == modifier).then_some(())).is_some()
    }

    /// Removes the first modifier that `f` knows.
    pub(super) fn pick<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.modifiers.iter().enumerate().find_map(|(i, m)| Some((i, f(m)?)))?;
        self.modifiers.remove(at);
        Some(value)
    }

    /// Removes the last modifier, which must be a type.
    pub(super) fn ty(&mut self) -> Result<Ty, String> {
        let last = self.modifiers.pop().ok_or("the instruction has no type")?;
        Ty::parse(last).ok_or_else(|| format!("the type `.{last}` is not supported"))
    }

    /// `.rn`, `.rz`, `.rm`, `.rp`; nearest if there is none.
    pub(super) fn round(&mut self) -> Round {
        let round = self.pick(|m| match m {
            "rn" => Some(Round::Nearest),
            "rz" => Some(Round::Zero),
            "rm" => Some(Round::Down),
            "rp" => Some(Round::Up),
            _ => None,
        });
        round.unwrap_or(Round::Nearest)
    }

    /// Fails if a modifier is left.
    pub(super) fn finish(&self) -> Result<(), String> {
        match self.modifiers.first() {
            Some(left) => Err(format!("`{}` with `.{left}` is not supported", self.name)),
            None => Ok(()),
        }
    }
}

//! The syntax tree of a PTX file: declarations and instructions, with unresolved names.

use crate::isa::{Space, Ty};
use crate::location::Location;
use std::sync::Arc;

/// One PTX file.
#[derive(Debug, Default)]
pub(crate) struct Unit<'a> {
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// A variable of `.global`, `.const`, `.shared`, `.local` or `.param` space.
#[derive(Debug, Clone)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub space: Space,
    pub align: usize,
    /// 0 for `.extern .shared x[]`, whose size is given at launch.
    pub bytes: usize,
    /// The first bytes; the rest is zero.
    pub init: Vec<u8>,
}

/// An `.entry` (a kernel) or a `.func`.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub name: &'a str,
    pub kernel: bool,
    pub line: u32,
    pub params: Vec<Variable<'a>>,
    /// Return parameters of a `.func`.
    pub results: Vec<Variable<'a>>,
    pub max_threads: Option<u32>,
    pub body: Vec<Statement<'a>>,
}

#[derive(Debug)]
pub(crate) enum Statement<'a> {
    /// `{`
    Enter,
    /// `}`
    Leave,
    Registers {
        ty: Ty,
        name: &'a str,
        count: Option<u32>,
        line: u32,
    },
    Variable(Variable<'a>),
    Label {
        name: &'a str,
        line: u32,
    },
    /// `name: .branchtargets a, b;`
    Targets {
        name: &'a str,
        labels: Vec<&'a str>,
    },
    Instruction(Instruction<'a>),
}

#[derive(Debug, Clone)]
pub(crate) struct Instruction<'a> {
    pub line: u32,
    /// From the last `.loc`.
    pub location: Option<Arc<Location>>,
    /// Predicate register, and whether it is negated by `!`.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Operand<'a> {
    /// A register, special register, variable or label.
    Name(&'a str),
    Int(i64),
    F32(u32),
    F64(u64),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`; base is a name, or an absolute address.
    Address {
        base: Option<&'a str>,
        offset: i64,
    },
    /// `d|p`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `!p`
    Not(Box<Operand<'a>>),
    /// `(a, b)` of a call
    List(Vec<Operand<'a>>),
    /// `_`
    Sink,
}

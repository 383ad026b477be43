//! Decoded PTX: types, operations, and instructions with resolved registers and labels.

use crate::location::Location;
use std::sync::Arc;

/// An operand type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Ty {
    Pred, B8, U8, S8, B16, U16, S16, F16, Bf16, B32, U32, S32, F32, Tf32, F16x2, Bf16x2, B64, U64, S64, F64,
}

impl Ty {
    /// Parses a type without its leading dot.
    pub(crate) fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "u8" => Ty::U8,
            "s8" => Ty::S8,
            "b16" => Ty::B16,
            "u16" => Ty::U16,
            "s16" => Ty::S16,
            "f16" => Ty::F16,
            "bf16" => Ty::Bf16,
            "b32" => Ty::B32,
            "u32" => Ty::U32,
            "s32" => Ty::S32,
            "f32" => Ty::F32,
            "tf32" => Ty::Tf32,
            "f16x2" => Ty::F16x2,
            "bf16x2" => Ty::Bf16x2,
            "b64" => Ty::B64,
            "u64" => Ty::U64,
            "s64" => Ty::S64,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        use Ty::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | Tf32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::Tf32 | Ty::F16x2 | Ty::Bf16x2 | Ty::F64)
    }

    /// The register file of this type.
    pub(crate) fn file(self) -> File {
        match self {
            Ty::Pred => File::Pred,
            _ if self.bytes() == 8 => File::B64,
            _ => File::B32,
        }
    }
}

/// A state space. `Generic` addresses cover global, shared, local and parameter memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    /// Parses a directive or modifier with its leading dot.
    pub(crate) fn parse(word: &str) -> Option<Space> {
        Some(match word {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" | ".shared::cta" => Space::Shared,
            ".local" => Space::Local,
            ".param" | ".param::entry" | ".param::func" => Space::Param,
            _ => return None,
        })
    }
}

/// A register file: 32 lanes of 32 or 64 bits, or one predicate bit per lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum File {
    B32,
    B64,
    Pred,
}

/// A register: its file and its index there. Immediates and special registers are preset registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reg(u32);

impl Reg {
    pub(crate) fn new(file: File, index: usize) -> Reg {
        Reg((file as u32) << 30 | index as u32)
    }

    pub(crate) fn file(self) -> File {
        match self.0 >> 30 {
            0 => File::B32,
            1 => File::B64,
            _ => File::Pred,
        }
    }

    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        (self.0 & 0x3fff_ffff) as usize
    }
}

/// The value of a preset register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    Bits(u64),
    /// The address of a `.global` or `.const` variable of the module, plus an offset.
    Symbol(usize, i64),
    /// The start of dynamic shared memory plus an offset.
    DynamicBase(i64),
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    /// `%lanemask_eq`, `_le`, `_lt`, `_ge`, `_gt`.
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero (`.rna`, for tf32).
    NearestAway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The unordered forms: true if an operand is NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Whether both are numbers; whether one is NaN.
    Num,
    Nan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// Integer and bit operations. Their type is separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum IntOp {
    Add, Sub, AddSat, SubSat, MulLo, MulHi, MulWide, MadLo, MadHi, MadHiSat, MadWide, Mul24Lo, Mul24Hi, Mad24Lo, Mad24Hi,
    Sad, Div, Rem, Abs, Neg, Min, Max, MinRelu, MaxRelu, And, Or, Xor, Not, Cnot, Shl, Shr, Brev, Popc, Clz,
    Bfind { shift: bool }, Bfe, Bfi,
    /// Add or subtract with the condition-code register as carry in or out.
    Carry { sub: bool, carry_in: bool, carry_out: bool },
    Shf { left: bool, wrap: bool },
    Prmt(Prmt), Lop3(u8),
    Dp4a { a_signed: bool, b_signed: bool },
    Dp2a { a_signed: bool, b_signed: bool, high: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prmt {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum FloatOp {
    Add, Sub, Mul, Fma, Div, Min, Max, Abs, Neg, Rcp, Sqrt, Rsqrt, Ex2, Lg2, Sin, Cos, Tanh, Copysign,
}

/// A floating-point operation with its type and modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Float {
    pub op: FloatOp,
    pub ty: Ty,
    pub round: Round,
    /// Subnormal operands and results become zero.
    pub ftz: bool,
    /// Results are clamped to [0, 1].
    pub sat: bool,
    /// `.NaN` of min and max: a NaN operand gives NaN.
    pub nan: bool,
    pub relu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestKind {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cvt {
    pub to: Ty,
    pub from: Ty,
    pub round: Round,
    /// `.rni`, `.rzi`, ...: round to an integral value (always set for float to integer).
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub satfinite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub space: Space,
    pub ty: Ty,
    /// Elements per lane: 1, 2, 4 or 8.
    pub count: u8,
    pub offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    /// Wait for all.
    Sync,
    /// Arrive without waiting.
    Arrive,
    /// Wait, and count the threads whose predicate is true.
    Popc,
    And,
    Or,
}

/// `mma.sync.m16n8kK` with f32 (or f16) accumulators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mma {
    pub k: u8,
    /// F16, Bf16 or Tf32.
    pub operands: Ty,
    /// F32 or F16.
    pub accumulators: Ty,
}

/// An operation without its registers, which [`Inst`] has in the order of PTX.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Op {
    Nop,
    Trap,
    Exit,
    Bra {
        target: u32,
    },
    /// Jump by an index into a table of targets.
    BrxIdx {
        table: u32,
    },
    Mov,
    /// `mov.b32 d, {a, b}` and similar: `bits` per part.
    Pack {
        bits: u8,
    },
    Unpack {
        bits: u8,
    },
    Clock,
    PredNot,
    PredLogic(Logic),
    /// Destinations p and perhaps q, which uses the negated comparison; sources a, b and, with `logic`, c.
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        logic: Option<Logic>,
    },
    /// `setp.f16x2`/`bf16x2`: p for the low half, q for the high.
    SetpHalves {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
    },
    Set {
        cmp: Cmp,
        to: Ty,
        ty: Ty,
        ftz: bool,
    },
    /// Sources a, b and the predicate.
    Selp,
    /// Sources a, b, c: a if c >= 0, else b.
    Slct {
        float: bool,
        ftz: bool,
    },
    Testp {
        kind: TestKind,
        ty: Ty,
    },
    Int(IntOp, Ty),
    Float(Float),
    Cvt(Cvt),
    /// Converts between a generic address and one of a state space.
    Cvta {
        space: Space,
        to_space: bool,
    },
    IsSpace(Space),
    Ld(Access),
    St(Access),
    Atom {
        op: AtomOp,
        access: Access,
    },
    CpAsync {
        bytes: u8,
        to: i64,
        from: i64,
    },
    CpCommit,
    /// Waits until at most this many groups are pending; `None`: for all copies, committed or not.
    CpWait {
        groups: Option<u32>,
    },
    LdMatrix {
        count: u8,
        trans: bool,
        offset: i64,
    },
    StMatrix {
        count: u8,
        trans: bool,
        offset: i64,
    },
    Shfl(ShflMode),
    Vote(VoteMode),
    MatchAny,
    MatchAll,
    ActiveMask,
    Redux {
        op: AtomOp,
        ty: Ty,
    },
    Elect,
    WarpSync,
    Bar(BarKind),
    Mma(Mma),
}

/// Classes of instructions, for [`crate::Counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Integer and bit arithmetic.
    Int,
    /// f32 arithmetic.
    Fp32,
    /// f16 and bf16 arithmetic.
    Half,
    /// f64 arithmetic.
    Fp64,
    /// Division, roots and transcendental functions.
    Special,
    /// `cvt`.
    Convert,
    /// Comparisons and logic on predicates.
    Compare,
    /// `mov` and `selp`.
    Move,
    /// `mma`.
    Mma,
    /// Loads from global or generic addresses.
    LoadGlobal,
    /// Stores to global or generic addresses.
    StoreGlobal,
    /// Loads from shared memory.
    LoadShared,
    /// Stores to shared memory.
    StoreShared,
    /// Loads from local memory.
    LoadLocal,
    /// Stores to local memory.
    StoreLocal,
    /// Loads of constants and parameters.
    LoadConst,
    /// `ldmatrix` and `stmatrix`.
    Matrix,
    /// `cp.async`.
    AsyncCopy,
    /// `atom` and `red`.
    Atomic,
    /// Shuffles, votes, matches and reductions in a warp.
    Shuffle,
    /// Barriers of a block or a warp.
    Barrier,
    /// Branches, calls, `ret` and `exit`.
    Branch,
    /// Everything else.
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub predicate: Reg,
    pub negated: bool,
}

/// A decoded instruction. Its registers are the kernel's `operands[first..]`: destinations, then sources.
#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    pub class: Class,
    pub guard: Option<Guard>,
    pub first: u32,
    pub destinations: u8,
    pub sources: u8,
    /// Whether a source may be uninitialised and is checked at run time.
    pub reads_tracked: bool,
    pub writes_tracked: bool,
    pub line: u32,
    pub location: Option<Arc<Location>>,
}

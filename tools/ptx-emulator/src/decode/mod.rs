//! Decodes a kernel: resolves names to registers and addresses and labels to instruction indices, and inlines device
//! functions.

mod arith;
mod flow;
mod form;
mod memory;
mod operands;
mod registers;
mod warp;

use crate::isa::{Class, File, Guard, Inst, Op, Preset, Reg, Space, Ty};
use crate::kernel::{Kernel, Param};
use crate::parser::ParseError;
use crate::parser::ast::{Function, Instruction, Statement, Unit, Variable};
use form::Form;
use std::collections::HashMap;

/// Errors are messages; the caller adds the line.
type Decoded<T> = Result<T, String>;

/// What a name refers to.
#[derive(Clone)]
enum Binding<'a> {
    Register(Reg),
    /// `%r<10>`: ten registers, each created when it is first used.
    Family {
        file: File,
        family: u32,
        count: u32,
    },
    /// A variable: its state space and its address there.
    Variable(Space, usize),
    /// A `.global` or `.const` variable of the module, by its index.
    Symbol(usize),
    Label(u32),
    Targets(&'a [&'a str]),
}

struct Decoder<'a> {
    unit: &'a Unit<'a>,
    scopes: Vec<HashMap<&'a str, Binding<'a>>>,
    /// Functions that are being inlined, outermost first, to detect recursion.
    calls: Vec<&'a str>,
    /// Scopes below this index belong to callers and are not visible, except the module's.
    visible: usize,
    /// Where `ret` goes: the label after an inlined body.
    return_label: Option<u32>,
    labels: Vec<Option<u32>>,
    counts: [usize; 3],
    /// Number of families declared so far, and the registers of each that are used.
    families: u32,
    numbered: HashMap<(u32, u32), Reg>,
    names: HashMap<Reg, String>,
    presets: HashMap<(File, Preset), Reg>,
    code: Vec<Inst>,
    operands: Vec<Reg>,
    tables: Vec<Vec<u32>>,
    shared_bytes: usize,
    /// The alignment of dynamic shared memory, if the kernel uses it.
    dynamic_align: Option<usize>,
    local_bytes: usize,
    /// Line of the current instruction.
    line: u32,
    location: Option<std::sync::Arc<crate::location::Location>>,
    guard: Option<Guard>,
}

/// Decodes one kernel.
pub(crate) fn kernel(unit: &Unit<'_>, function: &Function<'_>) -> Result<Kernel, ParseError> {
    let mut decoder = Decoder {
        unit,
        scopes: vec![HashMap::new()],
        calls: vec![function.name],
        visible: 1,
        return_label: None,
        labels: Vec::new(),
        counts: [0; 3],
        families: 0,
        numbered: HashMap::new(),
        names: HashMap::new(),
        presets: HashMap::new(),
        code: Vec::new(),
        operands: Vec::new(),
        tables: Vec::new(),
        shared_bytes: 0,
        dynamic_align: None,
        local_bytes: 0,
        line: function.line,
        location: None,
        guard: None,
    };
    let made = decoder.kernel(function);
    made.map_err(|message| ParseError { line: decoder.line, message })
}

/// CUDA's limits on a kernel's parameters and on a thread's local memory.
const MAX_PARAM_BYTES: usize = 32_764;
const MAX_LOCAL_BYTES: usize = 512 << 10;
/// More than any GPU has.
const MAX_SHARED_BYTES: usize = 1 << 20;
/// Limits on a kernel with all calls inlined: its instructions, and the depth of its calls.
const MAX_INSTRUCTIONS: usize = 1 << 20;
const MAX_CALLS: usize = 64;

/// Places a variable after the first `end` bytes of at most `max`: its offset and its end.
fn place_behind(variable: &Variable<'_>, end: usize, most: usize, what: &str) -> Decoded<(usize, usize)> {
    let offset = end.checked_next_multiple_of(variable.align.max(1));
    let place = offset.and_then(|offset| Some((offset, offset.checked_add(variable.bytes)?)));
    let too_large = || format!("`{}` does not fit: {what} has at most {most} bytes", variable.name);
    place.filter(|(_, end)| *end <= most).ok_or_else(too_large)
}

impl<'a> Decoder<'a> {
    fn kernel(&mut self, function: &'a Function<'a>) -> Decoded<Kernel> {
        let module_space = |v: &&Variable| matches!(v.space, Space::Global | Space::Const);
        for (index, variable) in self.unit.variables.iter().filter(module_space).enumerate() {
            self.scopes[0].insert(variable.name, Binding::Symbol(index));
        }
        let mut scope = HashMap::new();
        let mut params = Vec::new();
        let mut end = 0;
        for param in &function.params {
            let (offset, next) = place_behind(param, end, MAX_PARAM_BYTES, "the parameters")?;
            end = next;
            scope.insert(param.name, Binding::Variable(Space::Param, offset));
            params.push(Param { name: param.name.into(), offset, bytes: param.bytes });
        }
        self.scopes.push(scope);
        self.body(&function.body)?;
        self.emit(Op::Exit, Class::Branch, &[], &[]);
        self.resolve_labels()?;
        self.place_dynamic_shared();

        let mut kernel = Kernel {
            name: function.name.into(),
            params,
            static_shared: self.shared_bytes,
            local_bytes: self.local_bytes,
            max_threads: function.max_threads,
            shared_granule: shared_granule(&self.code),
            partial_barriers: self.partial_barriers(),
            code: std::mem::take(&mut self.code),
            operands: std::mem::take(&mut self.operands),
            tables: std::mem::take(&mut self.tables),
            presets: self.presets.iter().map(|((_, preset), reg)| (*reg, *preset)).collect(),
            registers: self.counts,
            tracked: Vec::new(),
        };
        kernel.presets.sort_by_key(|(reg, _)| (reg.file() as u8, reg.index()));
        registers::allocate(&mut kernel, &self.names);
        Ok(kernel)
    }

    /// Decodes the statements of a function in a new scope.
    fn body(&mut self, body: &'a [Statement<'a>]) -> Decoded<()> {
        self.enter(body)?;
        for (i, statement) in body.iter().enumerate() {
            match statement {
                Statement::Enter => self.enter(&body[i + 1..])?,
                Statement::Leave => {
                    self.scopes.pop();
                }
                Statement::Registers { ty, name, count, line } => {
                    self.line = *line;
                    self.declare_registers(*ty, name, *count)?;
                }
                Statement::Variable(variable) => {
                    let binding = self.place(variable)?;
                    self.bind(variable.name, binding)?;
                }
                Statement::Label { name, line } => {
                    self.line = *line;
                    if let Some(Binding::Label(label)) = self.lookup(name) {
                        self.labels[label as usize] = Some(self.code.len() as u32);
                    }
                }
                Statement::Targets { .. } => {}
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    /// Opens a scope and binds its labels, which may be used before they appear.
    fn enter(&mut self, rest: &'a [Statement<'a>]) -> Decoded<()> {
        self.scopes.push(HashMap::new());
        let mut depth = 0;
        for statement in rest {
            match statement {
                Statement::Enter => depth += 1,
                Statement::Leave if depth == 0 => break,
                Statement::Leave => depth -= 1,
                Statement::Label { name, line } if depth == 0 => {
                    self.line = *line;
                    self.bind(name, Binding::Label(self.labels.len() as u32))?;
                    self.labels.push(None);
                }
                Statement::Targets { name, labels } if depth == 0 => self.bind(name, Binding::Targets(labels))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn bind(&mut self, name: &'a str, binding: Binding<'a>) -> Decoded<()> {
        match self.scopes.last_mut().map(|scope| scope.insert(name, binding)) {
            Some(None) => Ok(()),
            _ => Err(format!("`{name}` is declared twice")),
        }
    }

    fn lookup(&self, name: &str) -> Option<Binding<'a>> {
        let seen = self.scopes[self.visible..].iter().rev().chain([&self.scopes[0]]);
        seen.into_iter().find_map(|scope| scope.get(name).cloned())
    }

    fn declare_registers(&mut self, ty: Ty, name: &'a str, count: Option<u32>) -> Decoded<()> {
        let file = ty.file();
        let binding = match count {
            Some(count) => {
                self.families += 1;
                Binding::Family { file, family: self.families, count }
            }
            None => Binding::Register(self.temporary(file)),
        };
        self.bind(name, binding)
    }

    /// Assigns an address to a variable of a function.
    fn place(&mut self, variable: &Variable<'a>) -> Decoded<Binding<'a>> {
        let (space, end, most) = match variable.space {
            Space::Shared => (Space::Shared, &mut self.shared_bytes, MAX_SHARED_BYTES),
            // Parameters of calls live in local memory.
            Space::Local | Space::Param => (Space::Local, &mut self.local_bytes, MAX_LOCAL_BYTES),
            _ => {
                return Err(format!(
                    "`{}`: only shared and local variables can be declared in a function",
                    variable.name
                ));
            }
        };
        let (offset, next) = place_behind(variable, *end, most, &format!("{space:?} memory"))?;
        *end = next;
        Ok(Binding::Variable(space, offset))
    }

    fn instruction(&mut self, instruction: &'a Instruction<'a>) -> Decoded<()> {
        self.line = instruction.line;
        if self.code.len() >= MAX_INSTRUCTIONS {
            return Err(format!("more than {MAX_INSTRUCTIONS} instructions with all calls inlined"));
        }
        self.location = instruction.location.clone();
        self.guard = match instruction.guard {
            Some((name, negated)) => Some(Guard { predicate: self.register(name, File::Pred)?, negated }),
            None => None,
        };
        let mut form = Form::new(instruction.opcode)?;
        let operands = instruction.operands.as_slice();
        let known = self.arith(&mut form, operands)?
            || self.memory(&mut form, operands)?
            || self.warp(&mut form, operands)?
            || self.flow(&mut form, operands)?;
        if !known {
            return Err(format!("the instruction `{}` is not supported", instruction.opcode));
        }
        form.finish()
    }

    fn emit(&mut self, op: Op, class: Class, destinations: &[Reg], sources: &[Reg]) {
        let first = self.operands.len() as u32;
        self.operands.extend(destinations);
        self.operands.extend(sources);
        self.code.push(Inst {
            op,
            class,
            guard: self.guard,
            first,
            destinations: destinations.len() as u8,
            sources: sources.len() as u8,
            reads_tracked: false,
            writes_tracked: false,
            line: self.line,
            location: self.location.clone(),
        });
    }

    fn resolve_labels(&mut self) -> Decoded<()> {
        let position = |label: &mut u32| *label = self.labels[*label as usize].unwrap_or(u32::MAX);
        for inst in &mut self.code {
            if let Op::Bra { target } = &mut inst.op {
                position(target);
            }
        }
        self.tables.iter_mut().flatten().for_each(position);
        Ok(())
    }

    /// Whether any barrier has a thread count.
    fn partial_barriers(&self) -> bool {
        let all = self.presets.get(&(File::B32, Preset::Bits(0)));
        let count = |inst: &Inst| self.operands[inst.first as usize + inst.destinations as usize + 1];
        self.code.iter().any(|inst| matches!(inst.op, Op::Bar(_)) && Some(&count(inst)) != all)
    }

    /// Dynamic shared memory follows the static variables.
    fn place_dynamic_shared(&mut self) {
        if let Some(align) = self.dynamic_align {
            self.shared_bytes = self.shared_bytes.next_multiple_of(align.max(16));
        }
    }
}

/// The narrowest access to shared memory in bytes, at most 16.
fn shared_granule(code: &[Inst]) -> usize {
    let shared = |space| matches!(space, Space::Shared | Space::Generic);
    let width = |inst: &Inst| match inst.op {
        Op::Ld(a) | Op::St(a) | Op::Atom { access: a, .. } if shared(a.space) => {
            Some((a.ty.bytes() * a.count as usize).min(16))
        }
        Op::CpAsync { bytes, .. } => Some(bytes as usize),
        _ => None,
    };
    code.iter().filter_map(width).min().unwrap_or(16)
}

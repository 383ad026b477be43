//! Branches and calls (PTX ISA, 9.7.12), and instructions that do nothing here.

use super::form::Form;
use super::{Binding, Class, Decoded, Decoder, MAX_CALLS};
use crate::isa::{Guard, Op, Ty};
use crate::parser::ast::Operand;
use std::collections::HashMap;

impl<'a> Decoder<'a> {
    pub(super) fn flow(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<bool> {
        let name = form.name;
        match name {
            "bra" => {
                let [Operand::Name(name)] = o else { return Err("bra takes a label".into()) };
                let target = self.label(name)?;
                self.emit(Op::Bra { target }, Class::Branch, &[], &[]);
            }
            "brx" if form.take("idx") => {
                let [index, Operand::Name(name)] = o else { return Err("brx.idx takes an index and a table".into()) };
                let Some(Binding::Targets(labels)) = self.lookup(name) else {
                    return Err(format!("the table of targets `{name}` is not declared"));
                };
                let index = self.source(index, Ty::U32)?;
                let table = labels.iter().map(|l| self.label(l)).collect::<Decoded<Vec<_>>>()?;
                self.tables.push(table);
                self.emit(Op::BrxIdx { table: self.tables.len() as u32 - 1 }, Class::Branch, &[], &[index]);
            }
            "ret" | "exit" | "trap" | "brkpt" => {
                self.count(o, 0)?;
                match (name, self.return_label) {
                    ("ret", Some(target)) => self.emit(Op::Bra { target }, Class::Branch, &[], &[]),
                    ("ret" | "exit", _) => self.emit(Op::Exit, Class::Branch, &[], &[]),
                    _ => self.emit(Op::Trap, Class::Other, &[], &[]),
                }
            }
            "call" => self.call(o)?,
            // Neither weak memory nor time is modelled.
            "membar" | "fence" | "griddepcontrol" => {
                self.count(o, 0)?;
                self.emit(Op::Nop, Class::Other, &[], &[]);
            }
            "nanosleep" | "pmevent" | "setmaxnreg" => {
                self.count(o, 1)?;
                self.emit(Op::Nop, Class::Other, &[], &[]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn label(&self, name: &str) -> Decoded<u32> {
        match self.lookup(name) {
            Some(Binding::Label(label)) => Ok(label),
            _ => Err(format!("the label `{name}` is not declared")),
        }
    }

    /// Inlines `call (results), function, (arguments)`. Formal parameters are bound to the memory of the arguments.
    fn call(&mut self, o: &[Operand<'a>]) -> Decoded<()> {
        let (results, name, arguments) = match o {
            [Operand::Name(name)] => (&[][..], *name, &[][..]),
            [Operand::Name(name), Operand::List(arguments)] => (&[][..], *name, arguments.as_slice()),
            [Operand::List(results), Operand::Name(name)] => (results.as_slice(), *name, &[][..]),
            [Operand::List(results), Operand::Name(name), Operand::List(arguments), ..] => {
                (results.as_slice(), *name, arguments.as_slice())
            }
            _ => return Err("this form of call is not supported".into()),
        };
        let unit = self.unit;
        let function = unit.functions.iter().find(|f| f.name == name && !f.kernel);
        let function = function.ok_or_else(|| format!("the call of `{name}` is not supported: it has no body here"))?;
        if self.calls.contains(&name) {
            return Err(format!("the recursive call of `{name}` is not supported"));
        }
        if self.calls.len() > MAX_CALLS {
            return Err(format!("calls are nested more than {MAX_CALLS} deep"));
        }
        let formals: Vec<_> = function.results.iter().chain(&function.params).collect();
        let actuals: Vec<_> = results.iter().chain(arguments).collect();
        if formals.len() != actuals.len() {
            return Err(format!("`{name}` takes {} parameters, {} given", formals.len(), actuals.len()));
        }
        let mut scope = HashMap::new();
        for (formal, actual) in formals.into_iter().zip(actuals) {
            let Operand::Name(actual) = actual else { return Err("arguments of a call must be variables".into()) };
            let binding = self.lookup(actual).ok_or_else(|| format!("`{actual}` is not declared"))?;
            scope.insert(formal.name, binding);
        }

        let end = self.labels.len() as u32;
        self.labels.push(None);
        let (visible, caller_return) = (self.visible, self.return_label);
        let (line, location): (u32, _) = (self.line, self.location.clone());
        let guard: Option<Guard> = self.guard.take();
        if let Some(guard) = guard {
            self.guard = Some(Guard { negated: !guard.negated, ..guard });
            self.emit(Op::Bra { target: end }, Class::Branch, &[], &[]);
            self.guard = None;
        }
        self.visible = self.scopes.len();
        self.return_label = Some(end);
        self.calls.push(name);
        self.scopes.push(scope);
        self.body(&function.body)?;
        self.scopes.pop();
        self.calls.pop();
        self.labels[end as usize] = Some(self.code.len() as u32);
        (self.visible, self.return_label) = (visible, caller_return);
        (self.line, self.location) = (line, location);
        Ok(())
    }
}

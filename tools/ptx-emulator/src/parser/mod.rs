//! Parses PTX into a syntax tree: the part of the PTX ISA's grammar (9.0, chapters 4 to 6) that nvcc emits for kernels.

pub(crate) mod ast;
mod body;
mod lexer;
#[cfg(test)]
mod tests;

use crate::isa::{Space, Ty};
use crate::location::Location;
use ast::{Function, Unit, Variable};
use lexer::Token;
use std::collections::HashMap;
use std::sync::Arc;

/// PTX that cannot be executed, and the line of the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
#[non_exhaustive]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

type Parsed<T> = Result<T, ParseError>;

/// Parses one PTX file.
pub(crate) fn parse(text: &str) -> Parsed<Unit<'_>> {
    let tokens = lexer::tokenize(text)?;
    let mut parser = Parser { files: file_names(&tokens), tokens, at: 0, location: None, depth: 0 };
    parser.unit()
}

/// `.file` directives may follow the code that refers to them, so they are collected first.
fn file_names(tokens: &[(Token<'_>, u32)]) -> HashMap<u64, Arc<str>> {
    let triples = tokens.windows(3).filter_map(|w| match (w[0].0, w[1].0, w[2].0) {
        (Token::Word(".file"), Token::Int(number), Token::Text(name)) => Some((number, Arc::from(name))),
        _ => None,
    });
    triples.collect()
}

/// Limits the nesting of operands, initial values and scopes, so that no text exhausts the stack.
const MAX_DEPTH: usize = 64;
/// Limits the total size of module variables, which are allocated at the first launch.
const MAX_MODULE_BYTES: usize = 1 << 28;

pub(crate) struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    files: HashMap<u64, Arc<str>>,
    location: Option<Arc<Location>>,
    /// Nesting of the operand or initial value that is being parsed.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(ParseError { line: self.line(), message: message.into() })
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        match self.peek() {
            Some(Token::Punct(c)) => self.error(format!("expected {what}, found `{}`", c as char)),
            Some(Token::Word(w)) => self.error(format!("expected {what}, found `{w}`")),
            Some(token) => self.error(format!("expected {what}, found {token:?}")),
            None => self.error(format!("expected {what}, found the end of the file")),
        }
    }

    fn eat(&mut self, punct: u8) -> bool {
        let found = self.peek() == Some(Token::Punct(punct));
        self.at += found as usize;
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        self.at += found as usize;
        found
    }

    fn need(&mut self, punct: u8) -> Parsed<()> {
        if self.eat(punct) { Ok(()) } else { self.expected(&format!("`{}`", punct as char)) }
    }

    fn word(&mut self) -> Parsed<&'a str> {
        let Some(Token::Word(word)) = self.peek() else { return self.expected("a name") };
        self.at += 1;
        Ok(word)
    }

    fn integer(&mut self) -> Parsed<u64> {
        let Some(Token::Int(value)) = self.peek() else { return self.expected("an integer") };
        self.at += 1;
        Ok(value)
    }

    /// Parses one level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return self.error("nested too deeply");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn unit(&mut self) -> Parsed<Unit<'a>> {
        let mut unit = Unit::default();
        let mut bytes = 0usize;
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else { return self.expected("a directive") };
            match word {
                ".version" | ".target" | ".address_size" | ".file" => self.skip_line(),
                ".section" => self.skip_braces()?,
                ".visible" | ".weak" | ".common" => self.at += 1,
                ".pragma" | ".alias" => self.skip_statement(),
                ".extern" if self.tokens.get(self.at + 1).is_some_and(|t| t.0 == Token::Word(".func")) => {
                    self.skip_statement()
                }
                ".extern" => self.at += 1,
                ".entry" | ".func" => {
                    if let Some(function) = self.function()? {
                        unit.functions.push(function);
                    }
                }
                _ => {
                    let variables = self.variables()?;
                    bytes = variables.iter().fold(bytes, |sum, variable| sum.saturating_add(variable.bytes));
                    if bytes > MAX_MODULE_BYTES {
                        return self.error(format!("the module's variables have more than {MAX_MODULE_BYTES} bytes"));
                    }
                    unit.variables.extend(variables);
                }
            }
        }
        Ok(unit)
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
    }

    fn skip_statement(&mut self) {
        while self.at < self.tokens.len() && !self.eat(b';') {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Parsed<()> {
        while !self.eat(b'{') {
            if self.peek().is_none() {
                return self.expected("`{`");
            }
            self.at += 1;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Some(Token::Punct(b'{')) => depth += 1,
                Some(Token::Punct(b'}')) => depth -= 1,
                None => return self.expected("`}`"),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    /// `.entry name (params) directives { body }`; `None` for a prototype without a body.
    fn function(&mut self) -> Parsed<Option<Function<'a>>> {
        let line = self.line();
        let kernel = self.word()? == ".entry";
        let results = if self.peek() == Some(Token::Punct(b'(')) { self.parameters()? } else { Vec::new() };
        let name = self.word()?;
        let params = if self.peek() == Some(Token::Punct(b'(')) { self.parameters()? } else { Vec::new() };
        let mut max_threads = None;
        loop {
            match self.peek() {
                Some(Token::Punct(b';')) => {
                    self.at += 1;
                    return Ok(None);
                }
                Some(Token::Punct(b'{')) => break,
                Some(Token::Word(".maxntid" | ".reqntid")) => {
                    self.at += 1;
                    let threads = self.integer_list()?.into_iter().fold(1, u64::saturating_mul);
                    max_threads = Some(u32::try_from(threads).unwrap_or(u32::MAX));
                }
                Some(Token::Word(".pragma")) => self.skip_statement(),
                Some(Token::Word(_)) => {
                    self.at += 1;
                    if matches!(self.peek(), Some(Token::Int(_))) {
                        self.integer_list()?;
                    }
                }
                _ => return self.expected("a function body"),
            }
        }
        self.location = None;
        let body = self.body()?;
        Ok(Some(Function { name, kernel, line, params, results, max_threads, body }))
    }

    fn integer_list(&mut self) -> Parsed<Vec<u64>> {
        let mut list = vec![self.integer()?];
        while self.eat(b',') {
            list.push(self.integer()?);
        }
        Ok(list)
    }

    fn parameters(&mut self) -> Parsed<Vec<Variable<'a>>> {
        self.need(b'(')?;
        let mut params = Vec::new();
        while !self.eat(b')') {
            let space = self.word()?;
            if space != ".param" && space != ".reg" {
                return self.error(format!("expected `.param`, found `{space}`"));
            }
            params.push(self.variable(Space::Param)?);
            if !self.eat(b',') && self.peek() != Some(Token::Punct(b')')) {
                return self.expected("`,` or `)`");
            }
        }
        Ok(params)
    }

    /// A declaration that starts with its space: `.shared .align 4 .b8 name[64], other[8];`
    fn variables(&mut self) -> Parsed<Vec<Variable<'a>>> {
        let word = self.word()?;
        let Some(space) = Space::parse(word) else {
            self.at -= 1;
            return self.error(format!("the directive `{word}` is not supported"));
        };
        let mut list = vec![self.variable(space)?];
        while self.eat(b',') {
            let (align, name) = (list[0].align, self.word()?);
            list.push(self.declarator(name, space, Ty::B8, align)?);
        }
        self.need(b';')?;
        Ok(list)
    }

    /// After the state space: alignment, pointer attributes, type, name, dimensions and initial value.
    fn variable(&mut self, space: Space) -> Parsed<Variable<'a>> {
        let (mut align, mut ty, mut vector) = (None, None, 1);
        loop {
            match self.word()? {
                ".align" => align = Some(self.integer()? as usize),
                ".ptr" => {
                    // `.ptr .global .align 4` describes the memory that the parameter points to.
                    while matches!(self.peek(), Some(Token::Word(w)) if w.starts_with('.')) {
                        if self.word()? == ".align" {
                            self.integer()?;
                        }
                    }
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".const" | ".global" | ".shared" | ".local" | ".managed" | ".noalias" => {}
                word if word.starts_with('.') => match Ty::parse(&word[1..]) {
                    Some(parsed) => ty = Some(parsed),
                    None => {
                        self.at -= 1;
                        return self.error(format!("`{word}` is not a type of a variable"));
                    }
                },
                name => {
                    let Some(ty) = ty else { return self.error(format!("the variable `{name}` has no type")) };
                    let align = align.unwrap_or(ty.bytes() * vector);
                    let mut variable = self.declarator(name, space, ty, align)?;
                    match variable.bytes.checked_mul(vector) {
                        Some(bytes) => variable.bytes = bytes,
                        None => return self.error(format!("the variable `{name}` is too large")),
                    }
                    return Ok(variable);
                }
            }
        }
    }

    fn declarator(&mut self, name: &'a str, space: Space, ty: Ty, align: usize) -> Parsed<Variable<'a>> {
        if !align.is_power_of_two() {
            return self.error(format!("the alignment {align} is not a power of two"));
        }
        let mut count = Some(1usize);
        while self.eat(b'[') {
            let length = if self.peek() == Some(Token::Punct(b']')) { 0 } else { self.integer()? as usize };
            count = count.and_then(|count| count.checked_mul(length));
            self.need(b']')?;
        }
        let mut init = Vec::new();
        if self.eat(b'=') {
            self.initializer(ty, &mut init)?;
        }
        let Some(bytes) = count.and_then(|count| count.checked_mul(ty.bytes())).map(|b| b.max(init.len())) else {
            return self.error(format!("the variable `{name}` is too large"));
        };
        Ok(Variable { name, space, align, bytes, init })
    }

    fn initializer(&mut self, ty: Ty, out: &mut Vec<u8>) -> Parsed<()> {
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.nested(|parser| parser.initializer(ty, out))?;
                if !self.eat(b',') && self.peek() != Some(Token::Punct(b'}')) {
                    return self.expected("`,` or `}`");
                }
            }
            return Ok(());
        }
        let negative = self.eat(b'-');
        let value = match self.peek() {
            Some(Token::Int(v)) if negative => v.wrapping_neg(),
            Some(Token::Int(v)) => v,
            Some(Token::F32(bits)) => bits as u64,
            Some(Token::F64(bits)) if ty == Ty::F32 => (f64::from_bits(bits) as f32).to_bits() as u64,
            Some(Token::F64(bits)) => bits,
            _ => return self.expected("a number (addresses as initial values are not supported)"),
        };
        self.at += 1;
        out.extend_from_slice(&value.to_le_bytes()[..ty.bytes()]);
        Ok(())
    }
}

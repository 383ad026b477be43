//! The statements of a function's body.

use super::ast::{Instruction, Operand, Statement};
use super::lexer::Token;
use super::{MAX_DEPTH, Parsed, Parser};
use crate::isa::Ty;
use crate::location::Location;
use std::sync::Arc;

impl<'a> Parser<'a> {
    /// `{ statements }`, with nested scopes as `Enter` and `Leave`.
    pub(super) fn body(&mut self) -> Parsed<Vec<Statement<'a>>> {
        self.need(b'{')?;
        let mut body = Vec::new();
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Some(Token::Punct(b'{')) => {
                    if depth == MAX_DEPTH {
                        return self.error("nested too deeply");
                    }
                    self.at += 1;
                    depth += 1;
                    body.push(Statement::Enter);
                }
                Some(Token::Punct(b'}')) => {
                    self.at += 1;
                    depth -= 1;
                    if depth > 0 {
                        body.push(Statement::Leave);
                    }
                }
                Some(Token::Punct(b';')) => self.at += 1,
                Some(Token::Punct(b'@')) => {
                    let instruction = self.instruction()?;
                    body.push(Statement::Instruction(instruction));
                }
                Some(Token::Word(word)) => self.statement(word, &mut body)?,
                _ => return self.expected("a statement"),
            }
        }
        Ok(body)
    }

    fn statement(&mut self, word: &'a str, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        let line = self.line();
        match word {
            ".reg" => self.registers(body),
            ".loc" => self.loc(),
            ".pragma" | ".callprototype" => {
                self.skip_statement();
                Ok(())
            }
            ".file" => {
                self.skip_line();
                Ok(())
            }
            _ if word.starts_with('.') => {
                body.extend(self.variables()?.into_iter().map(Statement::Variable));
                Ok(())
            }
            _ if self.tokens.get(self.at + 1).is_some_and(|t| t.0 == Token::Punct(b':')) => {
                self.at += 2;
                if self.eat_word(".branchtargets") {
                    let mut labels = vec![self.word()?];
                    while self.eat(b',') {
                        labels.push(self.word()?);
                    }
                    self.need(b';')?;
                    body.push(Statement::Targets { name: word, labels });
                } else {
                    body.push(Statement::Label { name: word, line });
                }
                Ok(())
            }
            _ => {
                let instruction = self.instruction()?;
                body.push(Statement::Instruction(instruction));
                Ok(())
            }
        }
    }

    /// `.reg .b32 %r<10>, x;`
    fn registers(&mut self, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        let line = self.line();
        self.at += 1;
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Ty::parse) else {
            self.at -= 1;
            return self.error(format!("registers of type `{word}` are not supported"));
        };
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.eat(b'<') {
                let Ok(number) = u32::try_from(self.integer()?) else { return self.error("too many registers") };
                count = Some(number);
                self.need(b'>')?;
            }
            body.push(Statement::Registers { ty, name, count, line });
            if !self.eat(b',') {
                return self.need(b';');
            }
        }
    }

    /// `.loc file line column [, function_name label [+offset], inlined_at file line column]`
    fn loc(&mut self) -> Parsed<()> {
        self.at += 1;
        let mut location = self.place()?;
        if self.eat(b',') {
            if !self.eat_word("function_name") {
                return self.expected("`function_name`");
            }
            self.word()?;
            if self.eat(b'+') {
                self.integer()?;
            }
            self.need(b',')?;
            if !self.eat_word("inlined_at") {
                return self.expected("`inlined_at`");
            }
            location.inlined_at = Some(Arc::new(self.place()?));
        }
        self.location = (location.line > 0).then(|| Arc::new(location));
        Ok(())
    }

    fn place(&mut self) -> Parsed<Location> {
        let file = self.integer()?;
        let Some(name) = self.files.get(&file).cloned() else {
            return self.error(format!("`.loc` names file {file}, which no `.file` declares"));
        };
        let (line, column) = (self.integer()? as u32, self.integer()? as u32);
        Ok(Location { file: name, line, column, inlined_at: None })
    }

    fn instruction(&mut self) -> Parsed<Instruction<'a>> {
        let line = self.line();
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            guard = Some((self.word()?, negated));
        }
        let opcode = self.word()?;
        let mut operands = Vec::new();
        while !self.eat(b';') {
            operands.push(self.operand()?);
            if !self.eat(b',') && self.peek() != Some(Token::Punct(b';')) {
                return self.expected("`,` or `;`");
            }
        }
        Ok(Instruction { line, location: self.location.clone(), guard, opcode, operands })
    }

    fn operand(&mut self) -> Parsed<Operand<'a>> {
        let first = self.simple_operand()?;
        if self.eat(b'|') {
            let second = self.simple_operand()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self) -> Parsed<Operand<'a>> {
        if self.eat(b'!') {
            return Ok(Operand::Not(Box::new(self.nested(Self::simple_operand)?)));
        }
        if self.eat(b'{') {
            return Ok(Operand::Vector(self.list(b'}')?));
        }
        if self.eat(b'(') {
            return Ok(Operand::List(self.list(b')')?));
        }
        if self.eat(b'[') {
            return self.address();
        }
        let negative = self.eat(b'-');
        let operand = match self.peek() {
            Some(Token::Int(v)) => Operand::Int(if negative { v.wrapping_neg() as i64 } else { v as i64 }),
            Some(Token::F32(bits)) => Operand::F32(bits ^ (negative as u32) << 31),
            Some(Token::F64(bits)) => Operand::F64(bits ^ (negative as u64) << 63),
            Some(Token::Word("_")) => Operand::Sink,
            Some(Token::Word(word)) if !negative => Operand::Name(word),
            _ => return self.expected("an operand"),
        };
        self.at += 1;
        Ok(operand)
    }

    fn list(&mut self, end: u8) -> Parsed<Vec<Operand<'a>>> {
        let mut list = Vec::new();
        while !self.eat(end) {
            list.push(self.nested(Self::operand)?);
            if !self.eat(b',') && self.peek() != Some(Token::Punct(end)) {
                return self.expected(&format!("`,` or `{}`", end as char));
            }
        }
        Ok(list)
    }

    /// After `[`: a base, then `+offset`, `+-offset` or `-offset`.
    fn address(&mut self) -> Parsed<Operand<'a>> {
        let base = match self.peek() {
            Some(Token::Word(_)) => Some(self.word()?),
            _ => None,
        };
        let mut offset = 0i64;
        loop {
            let plus = self.eat(b'+');
            let negative = self.eat(b'-');
            match self.peek() {
                Some(Token::Int(v)) if plus || negative || base.is_none() => {
                    self.at += 1;
                    offset = offset.wrapping_add(if negative { v.wrapping_neg() } else { v } as i64);
                }
                Some(Token::Punct(b']')) if !plus && !negative => {
                    self.at += 1;
                    return Ok(Operand::Address { base, offset });
                }
                _ => return self.expected("an address offset or `]`"),
            }
        }
    }
}
